//go:build !linux

package treecmp

import (
	"errors"
	"fmt"
)

func compare(a, b string, _ Options) ([]Diff, error) {
	return nil, fmt.Errorf("compare %q with %q: only on Linux: %w", a, b, errors.ErrUnsupported)
}
