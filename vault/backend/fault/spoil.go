package fault

import (
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tharsis-backup/tharsis/vault/backend"
)

// shortReader ends after left bytes, with err or, if that is nil, as if there
// were no more.
type shortReader struct {
	io.ReadCloser
	left int64
	err  error
}

func (r *shortReader) Read(p []byte) (int, error) {
	if r.left <= 0 && r.err != nil {
		return 0, r.err
	}
	if r.left <= 0 {
		return 0, io.EOF
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	return n, err
}

// other is the object that is read in place of name: want, or if that is empty
// the next one by name in the same folder, cyclically.
func (b *Backend) other(ctx context.Context, name, want string) (string, error) {
	if want != "" {
		return want, nil
	}
	var names []string
	folder := strings.TrimPrefix(path.Dir(name)+"/", "./")
	for info, err := range b.inner.List(ctx, folder) {
		if err != nil {
			return "", fmt.Errorf("find another object than %s: %w", name, err)
		}
		if info.Name != name {
			names = append(names, info.Name)
		}
	}
	if len(names) == 0 {
		return name, nil
	}
	slices.Sort(names)
	i, _ := slices.BinarySearch(names, name)
	return names[i%len(names)], nil
}

// spoil is seq, sorted by name, cut or as it was in the past.
func (b *Backend) spoil(seq iter.Seq2[backend.Info, error], prefix string, a Action) iter.Seq2[backend.Info, error] {
	return func(yield func(backend.Info, error) bool) {
		objects, modified := map[string]int64{}, map[string]time.Time{}
		for info, err := range seq {
			if err != nil {
				yield(info, err)
				return
			}
			objects[info.Name], modified[info.Name] = info.Size, info.Modified
		}
		if a.kind == staleList {
			b.rewind(objects, prefix, int(a.n))
		}
		names := slices.Sorted(maps.Keys(objects))
		if a.kind == cutList {
			names = names[:min(a.n, int64(len(names)))]
		}
		for _, name := range names {
			if !yield(backend.Info{Name: name, Size: objects[name], Modified: modified[name]}, nil) {
				return
			}
		}
	}
}

// rewind undoes, the last first, what operations from number n on did to the
// objects below prefix.
func (b *Backend) rewind(objects map[string]int64, prefix string, n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := len(b.records) - 1; i >= max(n, 0); i-- {
		switch r := b.records[i]; {
		case !r.Effect || !strings.HasPrefix(r.Name, prefix):
		case r.Kind == Put:
			delete(objects, r.Name)
		case r.Kind == Delete:
			objects[r.Name] = r.Size
		}
	}
}
