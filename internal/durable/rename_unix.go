//go:build unix && !linux && !darwin

package durable

import "errors"

// renameNoReplace does not exist here: publish uses link(2).
func renameNoReplace(from, to string) error { return errors.ErrUnsupported }
