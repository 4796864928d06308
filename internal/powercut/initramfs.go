//go:build linux

package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// initramfs is the guest's root as a cpio archive in the "newc" format, which the
// kernel unpacks into memory.
type initramfs struct {
	w     io.Writer
	inode int
	err   error
}

// add adds a file, or a folder where data is nil.
func (a *initramfs) add(path string, mode int, data []byte) {
	a.inode++
	path = strings.TrimPrefix(path, "/")
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path)+1, 0)
	a.write(append([]byte(head+path), 0))
	a.write(data)
}

// write writes a part and fills it to 4 bytes.
func (a *initramfs) write(b []byte) {
	if a.err == nil {
		_, a.err = a.w.Write(append(bytes.Clone(b), make([]byte, -len(b)&3)...))
	}
}

func (a *initramfs) folder(path string) { a.add(path, 0o040755, nil) }

// file adds a file of the host's, with the folders above it.
func (a *initramfs) file(path, from string) {
	data, err := os.ReadFile(from)
	if err != nil {
		a.err = err
		return
	}
	for i := 1; i < len(path); i++ {
		if path[i] == '/' {
			a.folder(path[:i])
		}
	}
	a.add(path, 0o100755, data)
}

// writeInitramfs makes the guest's root: this program as init, the agent, the
// modules, and with a broken sync strace and its libraries.
func writeInitramfs(to string, o options) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer f.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	a := &initramfs{w: f}
	for _, dir := range []string{"/dev", "/proc", "/sys", "/tmp", "/modules", mountDirs[0], mountDirs[1]} {
		a.folder(dir)
	}
	a.add("/dev/console", 0o020600, nil) // replaced by devtmpfs
	a.file("/init", self)
	a.file(agentPath, o.agent)
	if o.broken == brokenSync {
		if err := a.addStrace(); err != nil {
			return err
		}
	}
	for _, fs := range o.fs {
		if err := a.addModules(o.kernel, fs); err != nil {
			return err
		}
	}
	a.add("TRAILER!!!", 0, nil)
	if a.err != nil {
		return fmt.Errorf("write initramfs: %w", a.err)
	}
	return f.Close()
}

// addStrace adds strace and what ldd says that it needs.
func (a *initramfs) addStrace() error {
	path, err := exec.LookPath("strace")
	if err != nil {
		return err
	}
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		return fmt.Errorf("ldd %s: %w", path, err)
	}
	a.file(straceNoSync[0], path)
	for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(out), -1) {
		a.file(lib, lib)
	}
	return nil
}

// addModules adds the modules for the disk and its file system, in a folder of its
// own and named by their number.
func (a *initramfs) addModules(kernel, fs string) error {
	modules, err := findModules(kernel, append([]string{"virtio_pci", "virtio_blk"}, fileSystems[fs].modules...))
	if err != nil {
		return err
	}
	a.folder("/modules/" + fs)
	for i, path := range modules {
		data, err := readModule(path)
		if err != nil {
			return fmt.Errorf("read module %s: %w", path, err)
		}
		a.add(fmt.Sprintf("/modules/%s/%02d-%s.ko", fs, i, moduleName(path)), 0o100644, data)
	}
	return nil
}

// findModules finds modules below a folder, each after those that it needs. One
// that is not there is built in, or the guest's mount will fail.
func findModules(root string, names []string) ([]string, error) {
	files := map[string]string{}
	for _, pattern := range []string{"kernel/*/*.ko*", "kernel/*/*/*.ko*", "kernel/*/*/*/*.ko*", "kernel/*/*/*/*/*.ko*"} {
		found, err := filepath.Glob(filepath.Join(root, "lib/modules/*", pattern))
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			files[moduleName(path)] = path
		}
	}
	var order []string
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		path := files[name]
		if done[name] || path == "" {
			return nil
		}
		done[name] = true
		needs, err := moduleNeeds(path)
		if err != nil {
			return err
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		order = append(order, path)
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return order, nil
}

func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module, which some distributions compress.
func readModule(path string) ([]byte, error) {
	if strings.HasSuffix(path, ".xz") {
		return exec.Command("xz", "-dc", path).Output()
	}
	return os.ReadFile(path)
}

// moduleNeeds names the modules that one says in its .modinfo that it needs.
func moduleNeeds(path string) ([]string, error) {
	data, err := readModule(path)
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("read module %s: no .modinfo", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read module %s: %w", path, err)
	}
	var needs []string
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			needs = append(needs, strings.FieldsFunc(list, func(r rune) bool { return r == ',' })...)
		}
		if list, ok := strings.CutPrefix(field, "softdep=pre: "); ok {
			needs = append(needs, strings.Fields(list)...)
		}
	}
	return needs, nil
}
