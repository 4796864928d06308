package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/log"
)

// TestFencedByStrangers: packs that have nothing to do with a job are condemned each
// time that it is about to commit. One that goes on for weeks meets that often and ends
// well; one that meets it over and over within minutes gives up.
func TestFencedByStrangers(t *testing.T) {
	for _, c := range []struct {
		spell time.Duration // of an attempt
		times int
		ends  bool
	}{{2 * time.Hour, 3 * maxFenced, true}, {time.Minute, maxFenced, true}, {time.Minute, 3 * maxFenced, false}} {
		dir := faultTemp(t)
		w := &faultWorld{home: filepath.Join(dir, "home"), vault: filepath.Join(dir, "vault")}
		var ahead time.Duration
		w.clock = func() time.Time { return faultClock().Add(ahead) }
		noErr(t, w.init(t.Context()))
		src := filepath.Join(dir, "src")
		noErr(t, os.Mkdir(src, 0o755))
		noErr(t, os.WriteFile(filepath.Join(src, "f"), []byte("content"), 0o644))
		hits := 0
		w.wrap = func(b backend.Backend) backend.Backend {
			return &onPut{Backend: b, prefix: "index/", do: func() {
				ahead += c.spell
				if hits++; hits > c.times {
					return
				}
				w.beside(t, func(ctx context.Context, s *Session) error {
					return s.asAdmin(ctx, t, w, &log.Condemn{Packs: []chunk.ID{{byte(hits)}}})
				})
			}}
		}
		res, err := w.backup(t.Context(), src)
		w.wrap = nil
		want := maxFenced + 1
		if c.ends {
			want = c.times + 1
		}
		if (err == nil) != c.ends || err != nil && !errors.Is(err, errFenced) || hits != want {
			t.Errorf("%+v: %v, %+v, %d attempts, not %d", c, err, res.Status, hits, want)
		}
	}
}
