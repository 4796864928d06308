//go:build !linux

package main

import (
	"context"
	"errors"
	"fmt"
)

func measure(context.Context, command, []string) (usage, error) {
	return usage{}, fmt.Errorf("measure: %w", errors.ErrUnsupported)
}

func launch([]string) int { return 1 }

func flush(bool) error { return fmt.Errorf("flush: %w", errors.ErrUnsupported) }
