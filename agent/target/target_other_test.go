//go:build !linux

package target

import (
	"errors"
	"testing"
)

func TestUnsupported(t *testing.T) {
	if _, err := Open(t.TempDir(), Options{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Open says %v", err)
	}
}
