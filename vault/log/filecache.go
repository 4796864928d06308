package log

import (
	"fmt"
	"io"
	"os"

	"github.com/tharsis-backup/tharsis/internal/disk"
)

// FileCache is a Cache in the file of this path, readable by its owner only. Its
// folder must exist. Nothing is made durable: what a crash takes is read again.
type FileCache string

// Open implements Cache.
func (c FileCache) Open() (io.ReadCloser, error) { return os.Open(string(c)) }

// Append implements Cache. The records go out in one write, so that those of two
// processes do not mix.
func (c FileCache) Append(records []byte) error {
	f, err := disk.Open(string(c), os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(records); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// Truncate implements Cache.
func (c FileCache) Truncate(size int64) error {
	if err := disk.Truncate(string(c), size); err != nil {
		return fmt.Errorf("cut the log's cache: %w", err)
	}
	return nil
}
