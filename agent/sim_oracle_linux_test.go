package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tharsis-backup/tharsis/chunk"
	"github.com/tharsis-backup/tharsis/vault"
	"github.com/tharsis-backup/tharsis/vault/backend/mem"
	"github.com/tharsis-backup/tharsis/vault/index"
	"github.com/tharsis-backup/tharsis/vault/key"
	"github.com/tharsis-backup/tharsis/vault/log"
	"github.com/tharsis-backup/tharsis/vault/manifest"
	"github.com/tharsis-backup/tharsis/vault/pack"
)

// simOracle knows all that ever was in the vault, and judges each change of it. It
// keeps books of its own: of the engine it uses what reads objects, but not what
// decides.
type simOracle struct {
	w     *simWorld
	v     *vault.Vault
	kept  *mem.Backend        // all packs that ever were
	blobs *vault.RecordReader // of kept
	live  *vault.RecordReader // of what there is

	mu     sync.Mutex
	seen   []simEntry // entries that are not judged yet
	chain  [][32]byte
	packs  map[chunk.ID]*simPack
	runs   map[chunk.ID]*simRun
	where  map[chunk.ID][]chunk.ID // packs that have a chunk or page
	open   []*index.Run            // all runs ever
	refs   map[chunk.ID][]chunk.ID // all that a root needs
	points map[log.PointID]*simPoint
	purged map[log.PointID]bool // by the admin
	thief  map[log.PointID]bool
	broken bool // the simulation destroyed something, or a thief made a point of garbage
}

type simEntry struct {
	e *log.Entry
	h log.Head
}

// simPack is a pack, and what the admin's entries say of it.
type simPack struct {
	present     bool
	destroyed   bool // by the simulation
	damaged     bool // by the simulation
	quarantined bool
	condemned   uint64 // 0: not
	at          time.Time
	skew        time.Duration
	swept       bool
}

func (p *simPack) String() string {
	var b strings.Builder
	for what, is := range map[string]bool{
		"there": p.present, "destroyed": p.destroyed, "damaged": p.damaged, "quarantined": p.quarantined, "swept": p.swept,
	} {
		if is {
			b.WriteString(what + " ")
		}
	}
	if p.condemned > 0 {
		fmt.Fprintf(&b, "condemned by %d", p.condemned)
	}
	return strings.TrimSpace(b.String())
}

func (p *simPack) usable() bool { return p.condemned == 0 && !p.swept && !p.quarantined }

// stands tells whether the vault has the pack, but for what the simulation destroyed.
func (p *simPack) stands() bool { return !p.swept && (p.present || p.destroyed) }

type simRun struct{ superseded, condemned, swept bool }

// simPoint is what a point is to restore to.
type simPoint struct {
	n      int
	m      *simMachine
	source string
	files  map[string]string
	noted  time.Time
	skew   time.Duration // of who noted it
}

func newSimOracle(w *simWorld) (*simOracle, error) {
	o := &simOracle{
		w: w, packs: map[chunk.ID]*simPack{}, runs: map[chunk.ID]*simRun{}, where: map[chunk.ID][]chunk.ID{},
		refs: map[chunk.ID][]chunk.ID{}, points: map[log.PointID]*simPoint{}, thief: map[log.PointID]bool{},
		purged: map[log.PointID]bool{},
	}
	var err error
	o.v, err = vault.Open(context.Background(), w.vault, w.template.root, nil, vault.Options{Log: log.Options{
		Observe: func(e *log.Entry, h log.Head) { o.seen = append(o.seen, simEntry{e, h}) },
	}})
	if err != nil {
		return nil, err
	}
	for _, s := range o.seen {
		o.chain = append(o.chain, s.h.Hash)
	}
	o.seen = nil
	o.kept = mem.New()
	if o.blobs, err = o.v.On(o.kept).NewRecordReader(); err != nil {
		return nil, err
	}
	o.live, err = o.v.NewRecordReader()
	return o, err
}

func (o *simOracle) pack(id chunk.ID) *simPack {
	if o.packs[id] == nil {
		o.packs[id] = &simPack{}
	}
	return o.packs[id]
}

func (o *simOracle) run(id chunk.ID) *simRun {
	if o.runs[id] == nil {
		o.runs[id] = &simRun{}
	}
	return o.runs[id]
}

// stored is told of an object that now is there.
func (o *simOracle) stored(p *simProc, name string, data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok := pack.IDOf(name); ok {
		o.pack(id).present = true
		o.kept.Set(name, data)
		if p != nil {
			p.packs = append(p.packs, id)
		}
	}
	if !strings.HasPrefix(name, "log/") {
		return
	}
	if err := o.v.Log.Refresh(context.Background()); err != nil {
		o.w.wrong("I4", "read the log after %s: %v", name, err)
		return
	}
	for _, s := range o.seen {
		o.chain = append(o.chain, s.h.Hash)
		o.judge(p, s.e)
	}
	o.seen = nil
	o.whole("after " + name)
}

// mayDelete judges that a process deletes an object (I3).
func (o *simOracle) mayDelete(p *simProc, name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	id, isPack := pack.IDOf(name)
	run, isRun := index.IDOf(name)
	switch {
	case strings.HasPrefix(name, "probe/"):
	case isPack:
		if k := o.pack(id); k.condemned == 0 || !k.swept {
			o.w.wrong("I3", "machine %d deletes pack %s, condemned by %d, swept %v", p.m.n, id.Short(), k.condemned, k.swept)
		}
	case isRun:
		r := o.run(run)
		if !r.swept || !r.superseded && !r.condemned || o.v.Log.State().RunLive(run) {
			o.w.wrong("I3", "machine %d deletes run %s: %+v", p.m.n, run.Short(), *r)
		}
	default:
		o.w.wrong("I3", "machine %d deletes %s", p.m.n, name)
	}
}

// deleted is told of an object that is no more.
func (o *simOracle) deleted(name string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if id, ok := pack.IDOf(name); ok {
		o.pack(id).present = false
	}
	o.whole("after the delete of " + name)
}

// sees checks that what a machine takes for the log is a prefix of it (I4).
func (o *simOracle) sees(p *simProc, h log.Head) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if h.Seq >= uint64(len(o.chain)) || o.chain[h.Seq] != h.Hash {
		o.w.wrong("I4", "machine %d sees an entry %d that is not the log's", p.m.n, h.Seq)
	}
}

// judge looks at one new entry, which process p wrote, or somebody else for nil.
func (o *simOracle) judge(p *simProc, e *log.Entry) {
	admin := e.Writer == log.PublicOf(o.w.template.admin)
	thief := e.Writer == log.PublicOf(o.w.template.thief.Key)
	o.w.count(e.Body.Type().String())
	who := "nobody"
	if p != nil {
		who = fmt.Sprintf("%s of %d", p.what, p.m.n)
	}
	o.w.history = append(o.w.history, fmt.Sprintf("%s %d %s %s: %s", o.w.now().Sub(faultStart).Round(time.Minute), e.Seq, e.Body.Type(), who, simShow(e.Body)))
	if p != nil {
		p.entry = true
	}
	switch b := e.Body.(type) {
	case *log.Commit:
		if p != nil && !thief {
			o.points[b.ID] = &simPoint{n: len(o.points), m: p.m, source: p.m.source.dir, files: p.files}
		}
		o.uses(&b.Point, thief, (*simPack).usable)
	case *log.Partial:
		// It has what its base has where the walk did not come yet: also what is in
		// quarantine, which the rest of the walk looks after.
		o.uses(&b.Point, thief, func(k *simPack) bool { return k.condemned == 0 && !k.swept })
	case *log.Index:
		for _, id := range b.Supersedes {
			o.run(id).superseded = true
		}
		o.addRuns(b.Adds, thief)
	case *log.Repack:
		if admin {
			o.addRuns(b.Adds, thief)
		}
	case *log.Quarantine:
		for _, id := range b.Packs {
			o.pack(id).quarantined = true
		}
	case *log.Forget:
		for _, point := range o.v.Log.State().Points() {
			if thief && point.Forgotten == e.Seq && !o.thief[point.Point.ID] {
				o.w.wrong("authority", "the thief deleted point %s", point.Point.ID.Short())
			}
		}
	case *log.Noted:
		o.noted(p, b)
	case *log.Purge:
		if admin {
			o.purge(p, b)
		}
	case *log.Condemn:
		if admin {
			o.condemn(p, e, b)
		}
	case *log.Swept:
		if admin {
			o.sweep(p, b)
		}
	}
}

// simShow tells what an entry names.
func simShow(b log.Body) string {
	ids := func(ids []chunk.ID) (out []string) {
		for _, id := range ids {
			out = append(out, id.Short())
		}
		return out
	}
	switch b := b.(type) {
	case *log.Commit:
		return fmt.Sprintf("%s runs %v base %d", b.ID.Short(), ids(b.Runs), int64(b.Sources[0].Base))
	case *log.Index:
		return fmt.Sprintf("%v for %v", ids(b.Adds), ids(b.Supersedes))
	case *log.Repack:
		return fmt.Sprintf("runs %v for packs %v", ids(b.Adds), ids(b.Replaced))
	case *log.Condemn:
		return fmt.Sprintf("packs %v runs %v", ids(b.Packs), ids(b.Runs))
	case *log.Swept:
		return fmt.Sprintf("packs %v runs %v", ids(b.Packs), ids(b.Runs))
	case *log.Quarantine:
		return fmt.Sprintf("packs %v", ids(b.Packs))
	}
	return ""
}

// uses checks that all that a point uses can be relied on (I2).
func (o *simOracle) uses(point *log.Point, thief bool, usable func(*simPack) bool) {
	if thief {
		o.thief[point.ID] = true
		o.broken = true
		return
	}
	o.addRuns(point.Runs, false)
	for i := range point.Sources {
		src := &point.Sources[i]
		if src.Status == log.StatusFailed {
			continue
		}
		refs, err := o.refsOf(src.Root)
		if err != nil {
			o.w.wrong("I2", "point %s names what cannot be read: %v", point.ID.Short(), err)
			continue
		}
		for _, id := range refs {
			if !slices.ContainsFunc(o.where[id], func(p chunk.ID) bool { return usable(o.packs[p]) }) {
				o.w.wrong("I2", "point %s uses chunk %s, which lies in no usable pack: %s", point.ID.Short(), id.Short(), o.places(id))
			}
		}
	}
}

// places describes where a chunk lies.
func (o *simOracle) places(id chunk.ID) string {
	var b strings.Builder
	for _, p := range o.where[id] {
		fmt.Fprintf(&b, "[%s: %s] ", p.Short(), o.packs[p])
	}
	return b.String()
}

// addRuns reads what runs say, while they are there.
func (o *simOracle) addRuns(ids []chunk.ID, thief bool) {
	for _, id := range ids {
		if _, ok := o.runs[id]; ok || thief {
			continue
		}
		o.run(id)
		if err := o.addRun(id); err != nil {
			o.w.wrong("index", "an entry names run %s: %v", id.Short(), err)
		}
	}
}

func (o *simOracle) addRun(id chunk.ID) error {
	ctx := context.Background()
	data, ok := o.w.vault.Data(index.Name(id))
	if !ok {
		return errors.New("it is not there")
	}
	run, err := index.OpenRun(ctx, o.v.Ring, id, simBytes(data), int64(len(data)), index.NewBlockCache(0))
	if err != nil {
		return err
	}
	o.open = append(o.open, run)
	return index.NewLive(index.Member{Run: run}).Each(ctx, func(id chunk.ID, _ bool, places []index.Place) error {
		for _, pl := range places {
			o.pack(pl.Pack)
			if !slices.Contains(o.where[id], pl.Pack) {
				o.where[id] = append(o.where[id], pl.Pack)
			}
		}
		return nil
	})
}

// simBytes is a run that stays, whatever becomes of its object.
type simBytes []byte

func (b simBytes) ReadAt(_ context.Context, p []byte, off int64) error {
	if off > int64(len(b)) || copy(p, b[off:]) < len(p) {
		return key.ErrDamaged
	}
	return nil
}

// refsOf are the pages and chunks of a manifest. What was seen once is remembered:
// a page's name says what is in it.
func (o *simOracle) refsOf(root chunk.ID) ([]chunk.ID, error) {
	if refs, ok := o.refs[root]; ok {
		return refs, nil
	}
	seen := map[chunk.ID]bool{}
	err := manifest.Pages(context.Background(), o, root, nil, func(r manifest.Ref) error {
		seen[r.ID] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	o.refs[root] = slices.Collect(maps.Keys(seen))
	return o.refs[root], nil
}

// Page implements [manifest.PageReader].
func (o *simOracle) Page(ctx context.Context, id chunk.ID) ([]byte, error) {
	var locs []index.Location
	for _, r := range slices.Backward(o.open) {
		var err error
		if locs, err = r.Lookup(ctx, id, locs); err != nil {
			return nil, err
		}
	}
	if len(locs) == 0 {
		return nil, fmt.Errorf("page %s is in no run", id.Short())
	}
	data, _, err := o.blobs.Chunk(ctx, locs, id)
	return bytes.Clone(data), err
}

// needed calls f for each chunk and page that points and unfinished jobs need.
func (o *simOracle) needed(f func(id chunk.ID)) {
	roots := map[chunk.ID]bool{}
	st := o.v.Log.State()
	add := func(sources []log.Source) {
		for i := range sources {
			if sources[i].Status != log.StatusFailed {
				roots[sources[i].Root] = true
			}
		}
	}
	for _, p := range st.Points() {
		if !o.thief[p.Point.ID] {
			add(p.Point.Sources)
		}
	}
	for _, p := range st.Partials() {
		// A prune gives a job up that left nothing else for 90 days by its clock.
		old := o.w.now().Sub(time.Unix(0, p.Time)) > partialAge-30*24*time.Hour
		if !o.thief[p.Point.ID] && !old {
			add([]log.Source{*p.Source})
		}
	}
	done := map[chunk.ID]bool{}
	for root := range roots {
		for _, id := range o.refs[root] {
			if !done[id] {
				done[id] = true
				f(id)
			}
		}
	}
}

// whole checks that nothing that is needed is lost (I1), and no point without the
// admin's word.
func (o *simOracle) whole(when string) {
	for id, k := range o.points {
		if point, ok := o.v.Log.State().Point(id); !o.purged[id] && (!ok || point.Purged) {
			o.w.wrong("authority", "%s: point %d is gone", when, k.n)
		}
	}
	o.needed(func(id chunk.ID) {
		if !slices.ContainsFunc(o.where[id], func(p chunk.ID) bool { return o.packs[p].stands() }) {
			o.w.wrong("I1", "%s: chunk %s is lost: %s", when, id.Short(), o.places(id))
		}
	})
}

// condemn checks that a CONDEMN names nothing that is needed (I6: whatever went
// wrong while its writer looked for that).
func (o *simOracle) condemn(p *simProc, e *log.Entry, b *log.Condemn) {
	for _, id := range b.Packs {
		k := o.pack(id)
		if k.condemned == 0 {
			k.condemned, k.at, k.skew = e.Seq, o.w.now(), skewOf(p)
		}
	}
	for _, id := range b.Runs {
		o.run(id).condemned = true
	}
	o.replaced("condemned", e.Seq, b.Packs)
}

// replaced checks that of each needed chunk of some packs another pack has it, which
// a point may use.
func (o *simOracle) replaced(what string, seq uint64, packs []chunk.ID) {
	o.needed(func(id chunk.ID) {
		in := func(p chunk.ID) bool { return slices.Contains(packs, p) }
		if slices.ContainsFunc(o.where[id], in) &&
			!slices.ContainsFunc(o.where[id], func(p chunk.ID) bool { return o.packs[p].usable() && o.packs[p].stands() }) {
			o.w.wrong("I6", "needed chunk %s was %s by entry %d: %s", id.Short(), what, seq, o.places(id))
		}
	})
}

func skewOf(p *simProc) time.Duration {
	if p == nil {
		return 0
	}
	return p.m.skew
}

// sweep checks a SWEPT: each pack was condemned, and long enough ago.
func (o *simOracle) sweep(p *simProc, b *log.Swept) {
	for _, id := range b.Packs {
		k := o.pack(id)
		if k.condemned == 0 {
			o.w.wrong("I3", "pack %s was swept and not condemned", id.Short())
		}
		if o.unasked(p) && k.skew.Abs() <= maxSkew && o.w.now().Sub(k.at) < sweepGrace-2*maxSkew {
			o.w.wrong("time", "pack %s was swept %s after it was condemned", id.Short(), o.w.now().Sub(k.at))
		}
		k.swept = true
	}
	for _, id := range b.Runs {
		o.run(id).swept = true
	}
	o.replaced("swept", 0, b.Packs)
}

// unasked tells whether a prune goes on where a guard rail does not let it.
func (o *simOracle) unasked(p *simProc) bool { return p != nil && p.what == "prune" && p.n == 0 }

func (o *simOracle) noted(p *simProc, b *log.Noted) {
	for _, point := range o.v.Log.State().Points() {
		if k := o.points[point.Point.ID]; k != nil && slices.Contains(b.Forgets, point.Forgotten) {
			k.noted, k.skew = o.w.now(), skewOf(p)
		}
	}
}

func (o *simOracle) purge(p *simProc, b *log.Purge) {
	const period = vault.DefaultSoftDeleteDays * 24 * time.Hour
	for _, id := range b.Points {
		o.purged[id] = true
		k := o.points[id]
		if k == nil || !o.unasked(p) || k.skew.Abs() > maxSkew {
			continue
		}
		if since := o.w.now().Sub(k.noted); k.noted.IsZero() || since < period-2*maxSkew {
			o.w.wrong("time", "point %s was purged %s after its deletion was noted", id.Short(), since)
		}
	}
}

// lost tells whether the simulation destroyed all that has a chunk.
func (o *simOracle) lost(id chunk.ID) bool {
	return !slices.ContainsFunc(o.where[id], func(p chunk.ID) bool { return o.packs[p].present && !o.packs[p].damaged })
}

// hurt tells whether the simulation destroyed something of a manifest.
func (o *simOracle) hurt(root chunk.ID) bool { return slices.ContainsFunc(o.refs[root], o.lost) }

// deep reads each point that stands, by the live index alone, and compares it with
// what the source then was.
func (o *simOracle) deep() {
	o.mu.Lock()
	defer o.mu.Unlock()
	ctx := context.Background()
	x, err := o.v.OpenIndex(ctx, vault.IndexOptions{})
	if err != nil {
		o.w.wrong("deep", "open the index: %v", err)
		return
	}
	d := &simReader{o: o, x: x, got: map[chunk.ID]string{}}
	for _, info := range o.v.Log.State().Points() {
		want := o.points[info.Point.ID]
		if want == nil || o.thief[info.Point.ID] {
			continue
		}
		for i := range info.Point.Sources {
			src := &info.Point.Sources[i]
			if src.Status == log.StatusFailed {
				o.w.wrong("deep", "point %d has no content", want.n)
				continue
			}
			if o.hurt(src.Root) {
				continue
			}
			if err := d.compare(ctx, src.Root, want.files); err != nil {
				o.w.wrong("deep", "point %d of machine %d: %v", want.n, want.m.n, err)
			}
		}
	}
}

// simReader reads content through the live index.
type simReader struct {
	o   *simOracle
	x   *vault.Index
	got map[chunk.ID]string
}

func (d *simReader) Page(ctx context.Context, id chunk.ID) ([]byte, error) {
	s, err := d.chunk(ctx, id)
	return []byte(s), err
}

func (d *simReader) chunk(ctx context.Context, id chunk.ID) (string, error) {
	if s, ok := d.got[id]; ok {
		return s, nil
	}
	locs, err := d.x.Find(ctx, id, nil)
	if err != nil {
		return "", err
	}
	if len(locs) == 0 {
		return "", fmt.Errorf("chunk %s is in no live run", id.Short())
	}
	data, _, err := d.o.live.Chunk(ctx, locs, id)
	if err == nil {
		d.got[id] = string(data)
	}
	return string(data), err
}

func (d *simReader) compare(ctx context.Context, root chunk.ID, want map[string]string) error {
	c := manifest.NewCursor(d, root)
	files := 0
	for {
		k, e, err := c.Next(ctx)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if e.Kind != manifest.KindFile {
			continue
		}
		files++
		content := ""
		for _, x := range e.Extents {
			s, err := d.chunk(ctx, x.ID)
			if err != nil {
				return err
			}
			content += s
		}
		if name := manifest.PathOf(k); content != want[name] {
			return fmt.Errorf("%s has %q instead of %q", name, content, want[name])
		}
	}
	if files != len(want) {
		return fmt.Errorf("%d files instead of %d", files, len(want))
	}
	return nil
}

// lastRoot is the manifest of the newest point of a machine.
func (o *simOracle) lastRoot(m *simMachine) (root chunk.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.v.Log.State().Points() {
		if k := o.points[p.Point.ID]; k != nil && k.m == m && len(p.Point.Sources) > 0 {
			root = p.Point.Sources[0].Root
		}
	}
	return root
}
