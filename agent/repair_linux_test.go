package agent

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault/backend"
	"github.com/tharsis-backup/tharsis/vault/backend/fault"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

func (r *rig) repair(o RepairOptions) (res RepairResult) {
	r.t.Helper()
	r.notes.clear()
	err := r.session(r.t.Context(), func(s *Session) (err error) {
		res, err = s.Repair(r.t.Context(), o)
		return err
	})
	if err != nil {
		r.t.Fatalf("repair: %v", err)
	}
	return res
}

// vaultNow is all that is in the vault.
func (r *rig) vaultNow() map[string]string {
	r.t.Helper()
	all := map[string]string{}
	for _, f := range r.objects("") {
		b, err := os.ReadFile(f)
		noErr(r.t, err)
		all[f[len(r.vault):]] = string(b)
	}
	return all
}

// asAdmin appends an entry under the admin's key.
func (r *rig) asAdmin(body func(s *Session) log.Body) {
	r.t.Helper()
	noErr(r.t, r.session(r.t.Context(), func(s *Session) error {
		return s.asAdmin(r.t.Context(), r.t.(*testing.T), &faultWorld{home: r.home}, body(s))
	}))
}

// packID is the ID of a pack's file.
func packID(file string) chunk.ID {
	base := filepath.Base(file)
	id, ok := pack.IDOf("packs/" + base[:2] + "/" + base)
	if !ok {
		panic(file)
	}
	return id
}

// Repair makes an index anew from what is there, whatever is missing of it and without
// a cache; what was found damaged by it is harmless then. A second one has nothing to do.
func TestRepairIndex(t *testing.T) {
	r, first, second := twoJobs(t)
	noErr(t, os.Mkdir(filepath.Join(r.dir, "before"), 0o755))
	before := r.restore(first)
	rng := rand.New(rand.NewPCG(91, 92))
	cases := map[string]func(p *rig){
		"no run":     func(p *rig) { noErr(t, os.RemoveAll(filepath.Join(p.vault, "index"))) },
		"wrong rows": func(p *rig) { p.wrongRows(rng, key.TypeDataPack, key.TypeManifestPack) },
	}
	for i := range 2 {
		cases[fmt.Sprintf("run %d missing", i)] = func(p *rig) { noErr(t, os.Remove(p.objects("index/")[i])) }
		cases[fmt.Sprintf("run %d cut", i)] = func(p *rig) { noErr(t, os.Truncate(p.objects("index/")[i], 99)) }
	}
	for n := range 5 {
		i, share := n%2, rng.Float64()
		cases[fmt.Sprintf("run %d flipped at %v", i, share)] = func(p *rig) {
			f := p.objects("index/")[i]
			info, err := os.Stat(f)
			noErr(t, err)
			spoil(t, f, int(float64(info.Size())*share))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cases)) {
		t.Run(name, func(t *testing.T) {
			p := r.fork()
			p.t = t
			cases[name](p)
			spoilt := p.vaultNow()
			dry := p.repair(RepairOptions{DryRun: true})
			if now := p.vaultNow(); !maps.Equal(now, spoilt) {
				t.Error("a dry run changed the vault")
			}
			p.wipe()
			res := p.repair(RepairOptions{})
			if res.Runs == 0 || res.Packs == 0 || res.Files+res.Points+res.Bytes+res.Quarantined != 0 {
				t.Errorf("%+v", res)
			}
			dry.Duration, res.Duration = 0, 0
			if fmt.Sprint(dry) != fmt.Sprint(res) {
				t.Errorf("the dry run said %+v, and then it was %+v", dry, res)
			}
			mended := p.vaultNow()
			for name, b := range spoilt {
				if mended[name] != b {
					t.Errorf("%s was changed or deleted", name)
				}
			}
			if again := p.repair(RepairOptions{}); again.Runs+again.Packs+again.Quarantined+again.Files != 0 || !maps.Equal(mended, p.vaultNow()) {
				t.Errorf("again: %+v", again)
			}
			_, found := p.hurt(second, VerifyOptions{ReadData: true})
			if found.Hurt+found.DamagedRuns != 0 || found.Harmless != found.Damaged || found.Damaged != res.Runs {
				t.Errorf("verify: %+v", found)
			}
			p.wipe()
			p.restored(second)
			same(t, filepath.Join(before, r.src), filepath.Join(p.restore(first), r.src))
			if p.notes.has(Info, "", "repair") {
				t.Errorf("%s", p.notes)
			}
			p.usable(p.clean().Point)
		})
	}
}

// wrongRows puts a run in the place of all others that is wrong about some packs: those
// of the types.
func (r *rig) wrongRows(rng *rand.Rand, types ...uint8) {
	r.t.Helper()
	ctx := r.t.Context()
	noErr(r.t, r.session(ctx, func(s *Session) error {
		var dirs []pack.Directory
		for p, err := range s.direct.ListedPacks(ctx) {
			if err != nil {
				return err
			}
			dir, err := pack.FindDirectory(ctx, s.backend, s.vault.Ring, p.ID, uint64(p.Size))
			if err != nil {
				return err
			}
			if !slices.Contains(types, dir.Type) {
				dirs = append(dirs, dir)
				continue
			}
			rec := &dir.Records[rng.IntN(len(dir.Records))]
			if n := len(rec.Chunks); n > 1 {
				rec.Chunks[0], rec.Chunks[n-1] = rec.Chunks[n-1], rec.Chunks[0]
			} else {
				rec.Number += 7
			}
			dir.Stamp()
			dirs = append(dirs, dir)
		}
		id, err := pack.NewID(nil)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		if _, err := index.Write(&b, s.vault.Ring, id, dirs); err != nil {
			return err
		}
		if err := backend.PutBytes(ctx, s.backend, index.Name(id), b.Bytes()); err != nil {
			return err
		}
		_, err = s.vault.Log.Append(ctx, s.machine.Key, func(st *log.State) (log.Body, error) {
			return &log.Index{Adds: []chunk.ID{id}, Supersedes: st.Runs()}, nil
		})
		return err
	}))
}

// A run that is wrong about packs is found wherever packs are looked into, and the
// files that cannot be had by it are named, and no others.
func TestVerifyWrongRows(t *testing.T) {
	r, _, second := twoJobs(t)
	r.wrongRows(rand.New(rand.NewPCG(93, 94)), key.TypeDataPack)
	r.checkedAndRestored(second, r.src, true)
	for _, o := range []VerifyOptions{{ReadData: true}, {Sample: 100}} {
		_, res := r.hurt(second, o)
		if res.Damaged != 1 || res.DamagedRuns != 1 || !strings.HasPrefix(res.Damage[0].Object, "index/") || res.Hurt == 0 {
			t.Errorf("%+v: %+v", o, res)
		}
	}
	if _, res := r.hurt(second, VerifyOptions{ReadData: true, Point: second}); res.Hurt == 0 || res.Damaged != 0 {
		t.Errorf("of the point: %+v", res)
	}
	if res := r.repair(RepairOptions{DryRun: true}); res.Runs != 1 || res.Files != 0 {
		t.Errorf("%+v", res)
	}
}

// A run that is wrong about one pack may be all that knows what another one holds, whose
// directory is damaged: that is kept.
func TestRepairKeepsRows(t *testing.T) {
	r, _, second := twoJobs(t)
	r.wrongRows(rand.New(rand.NewPCG(95, 96)), key.TypeDataPack)
	for _, file := range r.packs(key.TypeManifestPack) {
		info, err := os.Stat(file)
		noErr(t, err)
		spoil(t, file, int(info.Size())-30)
	}
	for _, dry := range []bool{true, false} {
		if res := r.repair(RepairOptions{DryRun: dry}); res.Runs != 1 || res.Quarantined != 2 || res.Files+res.Points != 0 {
			t.Errorf("%+v", res)
		}
	}
	r.wipe()
	r.restored(second)
	r.usable(r.clean().Point)
}

// A repair that dies between two entries of the log leaves nothing that a job would
// rely on: it takes trust away before it says that the index is whole.
func TestRepairDies(t *testing.T) {
	r, _, _ := twoJobs(t)
	for _, c := range r.packCases(4, "missing") {
		for entries := range int64(3) {
			p := r.fork()
			p.t = t
			p.clean() // lists: the next job does not
			p.fail(c)
			noErr(t, os.RemoveAll(filepath.Join(p.vault, "index")))
			var left atomic.Int64
			left.Store(entries)
			p.env.Wrap = func(b backend.Backend) backend.Backend { return dyingAt{b, "log/", &left} }
			err := p.session(t.Context(), func(s *Session) error {
				_, err := s.Repair(t.Context(), RepairOptions{})
				return err
			})
			if (err == nil) != (entries == 2) {
				t.Errorf("%v, dead after %d entries: %v", c, entries, err)
			}
			p.env.Wrap = nil
			made := p.backup(BackupOptions{})
			p.restored(made.Point)
			if _, res := p.hurt(made.Point, VerifyOptions{Point: made.Point}); res.Hurt > 0 {
				t.Errorf("%v, dead after %d entries: %+v", c, entries, res)
			}
		}
	}
}

// A pack in quarantine is read last, in whichever order an index has the places.
func TestQuarantinedIsReadLast(t *testing.T) {
	r, _, second := twoJobs(t)
	for _, c := range r.packCases(4, "flip") {
		p := r.fork()
		p.t = t
		p.fail(c)
		p.hurt("", VerifyOptions{ReadData: true, Quarantine: true})
		p.backup(BackupOptions{})
		noErr(t, os.RemoveAll(filepath.Join(p.vault, "index")))
		p.repair(RepairOptions{}) // all in one run, by ID
		p.wipe()
		var asked atomic.Int64
		p.env.Wrap = func(b backend.Backend) backend.Backend {
			return fault.New(b, func(op fault.Op) fault.Action {
				if op.Kind == fault.Get && op.Name == c.object {
					asked.Add(1)
				}
				return fault.Action{}
			})
		}
		p.restored(second)
		if n := asked.Load(); n > 0 {
			t.Errorf("%v: asked for %d times", c, n)
		}
	}
}

// What is lost with a pack remains lost, and is told of; a pack whose directory is
// damaged is not, as long as a run says what it holds, be it damaged itself.
func TestRepairLost(t *testing.T) {
	r, first, second := twoJobs(t)
	for _, c := range r.packCases(4, "missing", "directory") {
		for _, runs := range []string{"whole", "flipped", "none"} {
			p := r.fork()
			p.t = t
			what := fmt.Sprintf("%v, runs %s", c, runs)
			p.fail(c)
			for _, f := range p.objects("index/") {
				switch runs {
				case "flipped": // the last block, of chunks: what is in it of the pack is lost
					info, err := os.Stat(f)
					noErr(t, err)
					spoil(t, f, int(info.Size())-100)
				case "none":
					noErr(t, os.Remove(f))
				}
			}
			res := p.repair(RepairOptions{})
			lost := c.how == "missing" || runs == "none"
			told := lost == (res.Points > 0) && lost == (res.Files > 0) && (res.Bytes > 0 || !lost || c.typ != key.TypeDataPack)
			if runs == "whole" != (res.Runs == 0) || !told && runs != "flipped" {
				t.Errorf("%s: %+v", what, res)
			}
			if known := runs != "none"; known != (res.Quarantined == 1) {
				t.Errorf("%s: %+v", what, res)
			}
			p.wipe()
			made := p.backup(BackupOptions{})
			p.healed(c, made.Point, first, second)
		}
	}
}

// A repair believes the log about packs: what was swept is in no index again, and what
// was condemned or put into quarantine is found, but not used.
func TestRepairRespectsTheLog(t *testing.T) {
	r, _, second := twoJobs(t)
	packs := r.packs(key.TypeDataPack)
	all := map[string]func(id chunk.ID) log.Body{
		"quarantined": func(id chunk.ID) log.Body { return &log.Quarantine{Packs: []chunk.ID{id}} },
		"condemned":   func(id chunk.ID) log.Body { return &log.Condemn{Packs: []chunk.ID{id}} },
		"swept":       func(id chunk.ID) log.Body { return &log.Swept{Packs: []chunk.ID{id}} },
	}
	for name, body := range all {
		for _, file := range packs {
			p := r.fork()
			p.t = t
			id := packID(file)
			p.asAdmin(func(*Session) log.Body { return body(id) })
			noErr(t, os.RemoveAll(filepath.Join(p.vault, "index")))
			res := p.repair(RepairOptions{})
			var named bool
			noErr(t, p.session(t.Context(), func(s *Session) error {
				ids, err := (&faultWorld{}).packsOf(t.Context(), s, true)
				named = slices.Contains(ids, id)
				return err
			}))
			if named != (name != "swept") || (res.Files > 0) != (name == "swept") {
				t.Errorf("%s: named again: %v, %+v", name, named, res)
			}
			if name != "swept" {
				p.restored(second)
			}
			made := p.clean()
			p.usable(made.Point)
			p.restored(made.Point)
		}
	}
}

// On a whole vault a repair writes nothing.
func TestRepairNothing(t *testing.T) {
	r, _, _ := twoJobs(t)
	r.clean()
	before := r.vaultNow()
	if res := r.repair(RepairOptions{}); res.Runs+res.Packs+res.Quarantined+res.Files+int64(len(res.Damage)) != 0 || !maps.Equal(before, r.vaultNow()) {
		t.Errorf("%+v", res)
	}
	// A pack of a killed job is nobody's, and stays so.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r.write("more", strings.Repeat("new content ", 1000))
	r.env.Wrap = func(b backend.Backend) backend.Backend {
		return oncePut(b, "index/", cancel)
	}
	if _, err := r.try(ctx, BackupOptions{}); err == nil {
		t.Fatal("the job was not killed")
	}
	r.env.Wrap = nil
	if res := r.repair(RepairOptions{}); res.Packs != 0 {
		t.Errorf("%+v", res)
	}
}
