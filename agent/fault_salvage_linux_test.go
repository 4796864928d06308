package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/key"
)

// TestFaultDamagedVault damages or removes each object that a backup reads, without a
// cache: the next backup makes a point all the same, which restores
// exactly and which the one after builds on, or it says that the log is damaged.
func TestFaultDamagedVault(t *testing.T) {
	ctx := t.Context()
	v := newFlipVault(t, 0, false) // a block table is not read by a backup, as content is not
	home := v.w.home
	cases := 0
	for _, name := range v.names {
		kind, _, _ := strings.Cut(name, "/")
		if kind == "packs" && !v.isManifest(name) || kind == "keys" {
			continue // content: only a check finds that; not read by a backup
		}
		for _, how := range []string{"flip", "cut", "remove"} {
			if cases++; kind == "log" && how != "remove" && os.Getenv(faultAllEnv) == "" {
				continue
			}
			what := fmt.Sprintf("%s: %s", how, name)
			v.w.home = filepath.Join(filepath.Dir(home), "case")
			if err := faultCopy(home, v.w.home, false); err != nil {
				t.Fatal(err)
			}
			os.RemoveAll(filepath.Join(v.w.home, "cache"))
			switch whole := v.whole[name]; how {
			case "flip":
				v.b.Corrupt(name, int64(len(whole)*2/3), 4)
			case "cut":
				v.b.Set(name, whole[:len(whole)/2])
			case "remove":
				v.b.Remove(name)
			}
			res, err := v.w.backup(ctx, v.src)
			switch {
			case kind == "log" || kind == "config":
				if err == nil {
					t.Errorf("%s: the backup found nothing wrong", what)
				}
			case err != nil:
				t.Errorf("%s: backup: %v", what, err)
			default:
				if err := v.pointWhole(t, res.Point); err != nil {
					t.Errorf("%s: %v", what, err)
				}
				again, err := v.w.backup(ctx, v.src)
				if err != nil {
					t.Errorf("%s: the backup after: %v", what, err)
				} else if err := v.pointWhole(t, again.Point); err != nil {
					t.Errorf("%s: the backup after: %v", what, err)
				}
			}
			v.b.Restore(v.whole)
			os.RemoveAll(v.w.home)
		}
	}
	v.w.home = home
}

// isManifest tells whether a pack holds pages.
func (v *flipVault) isManifest(name string) bool { return v.whole[name][5] == key.TypeManifestPack }

// pointWhole checks a point by the vault alone, and by a restore.
func (v *flipVault) pointWhole(t *testing.T, point string) error {
	fresh := &faultWorld{home: v.w.home + "-fresh", vault: v.w.vault, host: "fresh", secret: faultNewPass}
	fresh.wrap = func(b backend.Backend) backend.Backend { return held{v.b} }
	defer os.RemoveAll(fresh.home)
	ctx := t.Context()
	err := fresh.session(ctx, false, func(s *Session) error {
		// The damaged object may be known to have what the point needs; another has
		// it, too.
		res, err := s.Verify(ctx, VerifyOptions{Point: point, ReadData: true})
		if errors.Is(err, ErrDamaged) && res.Hurt == 0 {
			err = nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return fresh.restoresTo(ctx, t, point, v.src, v.want)
}

// TestFaultVerifyPoint damages a record of content: a check of the data of a point
// finds it where the point needs it, and nowhere else.
func TestFaultVerifyPoint(t *testing.T) {
	ctx := t.Context()
	v := newFlipVault(t, 0, true)
	points, err := v.w.points(ctx)
	if err != nil {
		t.Fatal(err)
	}
	hurt := map[string]int{} // points that the damage of a pack hurts
	for _, name := range v.names {
		if !strings.HasPrefix(name, "packs/") {
			continue
		}
		v.b.Corrupt(name, 50, 1)
		for _, p := range points {
			var res VerifyResult
			err := v.w.session(ctx, false, func(s *Session) (err error) {
				res, err = s.Verify(ctx, VerifyOptions{Point: p.ID.String(), ReadData: true})
				return err
			})
			if errors.Is(err, ErrDamaged) != (res.Hurt > 0) {
				t.Errorf("%s, point %s: %d files hurt, %v", name, p.ID, res.Hurt, err)
			}
			if res.Hurt > 0 {
				hurt[name]++
			}
			if err := v.w.restoresTo(ctx, t, p.ID.String(), v.src, v.want); err == nil && res.Hurt > 0 {
				t.Errorf("%s, point %s: restores in spite of %d files hurt", name, p.ID, res.Hurt)
			}
		}
		v.b.Restore(v.whole)
		if hurt[name] == 0 {
			t.Errorf("%s: no point is hurt", name)
		}
	}
}

// TestFaultStaleList gives a check a list that is behind: what is not in it, and is
// there, is not missing.
func TestFaultStaleList(t *testing.T) {
	v := newFlipVault(t, 0, true)
	for _, action := range []fault.Action{fault.EmptyList(), fault.PartialList(3)} {
		hits := 0
		v.w.wrap = func(backend.Backend) backend.Backend {
			return fault.New(held{v.b}, func(op fault.Op) fault.Action {
				if op.Kind != fault.List || op.Name != "" || op.After {
					return fault.Action{}
				}
				hits++
				return action
			})
		}
		if res, err := v.w.verify(t.Context()); err != nil || hits != 1 {
			t.Errorf("%+v, %v, %d hits", res.Damage, err, hits)
		}
	}
}
