package vault

import (
	"fmt"
	"io"
	"runtime"
	"sync"

	"github.com/tharsis-backup/tharsis/internal/disk"
	"github.com/tharsis-backup/tharsis/internal/stage"
)

// spoolBlock is how many bytes of a spool file have a checksum together: it is
// read as a whole, and a pack of the usual size has 256 of them.
const spoolBlock = 64 << 10

var spoolBlocks = sync.Pool{New: func() any { return new([spoolBlock]byte) }}

// spool is a file of the job's own, written from its start to its end and then read
// at any place, with every byte checked. It is gone when it is closed or the process
// dies. Reading may go on at the same time from several goroutines.
type spool struct {
	file *disk.File
	size int64
	sums []uint32 // of each block; the last may grow
}

// newSpool makes an empty spool in dir. Where the system keeps open files' names,
// a swept folder removes it.
func newSpool(dir string) (*spool, error) {
	f, err := disk.CreateTemp(dir, "spool-", "")
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	if runtime.GOOS != "windows" {
		disk.Remove(f.Name())
	}
	return &spool{file: f}, nil
}

// Write appends p.
func (s *spool) Write(p []byte) (int, error) {
	// The checksums come first: what changes in p after them is found on reading.
	for rest := p; len(rest) > 0; {
		at := int(s.size % spoolBlock)
		if at == 0 {
			s.sums = append(s.sums, 0)
		}
		n := min(len(rest), spoolBlock-at)
		last := &s.sums[len(s.sums)-1]
		*last = stage.Sum(*last, rest[:n])
		s.size += int64(n)
		rest = rest[n:]
	}
	return s.file.Write(p)
}

// ReadAt implements io.ReaderAt. It returns stage.ErrSpoilt where the file has other
// bytes than were written.
func (s *spool) ReadAt(p []byte, off int64) (done int, err error) {
	for done < len(p) && off < s.size {
		var n int
		if n, err = s.readBlock(p[done:], off); err != nil {
			return done, fmt.Errorf("read spool: %w", err)
		}
		done, off = done+n, off+int64(n)
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}

// readBlock reads from off to the end of its block, or as far as p goes.
func (s *spool) readBlock(p []byte, off int64) (int, error) {
	begin := off - off%spoolBlock
	size := int(min(s.size-begin, spoolBlock))
	skip := int(off - begin)
	if skip == 0 && len(p) >= size { // into its place, without a copy
		return size, s.fill(p[:size], begin)
	}
	buf := spoolBlocks.Get().(*[spoolBlock]byte)
	defer spoolBlocks.Put(buf)
	if err := s.fill(buf[:size], begin); err != nil {
		return 0, err
	}
	return copy(p, buf[skip:size]), nil
}

// CheckCopy returns stage.ErrSpoilt where r has other bytes than were written here.
func (s *spool) CheckCopy(r io.ReaderAt) error {
	buf := spoolBlocks.Get().(*[spoolBlock]byte)
	defer spoolBlocks.Put(buf)
	for begin := int64(0); begin < s.size; begin += spoolBlock {
		if err := s.check(r, buf[:min(s.size-begin, spoolBlock)], begin); err != nil {
			return err
		}
	}
	return nil
}

// fill reads the block at begin.
func (s *spool) fill(block []byte, begin int64) error { return s.check(s.file, block, begin) }

// check reads the block at begin from r and compares it with its checksum.
func (s *spool) check(r io.ReaderAt, block []byte, begin int64) error {
	if n, err := r.ReadAt(block, begin); n < len(block) {
		if err == nil || err == io.EOF {
			err = stage.ErrSpoilt
		}
		return err
	}
	if stage.Sum(0, block) != s.sums[begin/spoolBlock] {
		return stage.ErrSpoilt
	}
	return nil
}

// Close removes the file.
func (s *spool) Close() error { return s.file.Close() }
