package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const (
	imageName  = "disk.img"
	imageBytes = 3 << 30
	imageUUID  = "74686172-7369-7321-8000-000000000001"
)

// imageRoots are what a system disk holds, in the order in which it is taken.
var imageRoots = []string{"/usr/lib", "/usr/bin", "/usr/sbin", "/usr/share", "/usr/local", "/usr/include", "/usr/libexec"}

// buildImage makes an ext4 disk image, 70 % full of the machine's own files. The
// rest is holes, as in the image of a virtual machine.
func buildImage(ctx context.Context, c *corpus, base string, scale float64) error {
	size := int64(imageBytes*scale) &^ (1<<20 - 1)
	if size < 8<<20 {
		size = 8 << 20
	}
	fill := size / 10 * 7
	p, err := pick(imageRoots, quota{files: 1, bytes: fill, most: fill})
	if err != nil {
		return err
	}
	c.info.Sources = p.sources
	staged := filepath.Join(base, "image.staged")
	defer os.RemoveAll(staged)
	if err := os.RemoveAll(staged); err != nil {
		return err
	}
	if err := os.Mkdir(staged, 0o755); err != nil {
		return err
	}
	if err := p.copyTo(ctx, staged); err != nil {
		return err
	}
	c.info.Notes = fmt.Sprintf("An ext4 file system with %d files of %.0f MB.", p.files, float64(p.bytes)/1e6)
	return mkfs(ctx, filepath.Join(c.dir, imageName), staged, size)
}

// mkfs makes an image of the given size that holds the content of dir.
func mkfs(ctx context.Context, image, dir string, size int64) error {
	f, err := os.OpenFile(image, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(size); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, mkfsPath(), "-q", "-F", "-m", "0", "-i", "8192", "-U", imageUUID,
		"-E", "hash_seed="+imageUUID+",root_owner=0:0", "-d", dir, image)
	// The times that mkfs itself writes.
	cmd.Env = append(os.Environ(), "E2FSPROGS_FAKE_TIME=1700000000")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// mkfsPath finds mkfs.ext4, which often isn't on the path of a plain user.
func mkfsPath() string {
	if path, err := exec.LookPath("mkfs.ext4"); err == nil {
		return path
	}
	return "/sbin/mkfs.ext4"
}
