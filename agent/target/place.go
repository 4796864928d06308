package target

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"

	"github.com/tharsis-backup/tharsis/vault/manifest"
)

// placer gives a finished thing its name. In both calls fd is the folder's.
type placer interface {
	// put gives it the name to, and fails with fs.ErrExist where that is taken.
	put(fd int, to string) error
	// over takes the name to from what has it, unless that is a folder (errIsDir).
	over(fd int, to string) error
}

// decide resolves the rule for conflicts for name, which is taken, to Copy,
// Overwrite or Skip.
func (r *Root) decide(fd int, name string, mtime manifest.Time) Conflict {
	if r.o.Conflict != Newer {
		return r.o.Conflict
	}
	if st, err := statAt(fd, name); err == nil && mtime.Compare(st.mtime) <= 0 {
		return Skip
	}
	return Overwrite
}

// place gives p the name, or another, or none, by the rules for conflicts, and
// returns the name.
func (d *Dir) place(fd int, name string, mtime manifest.Time, p placer) (string, Outcome, error) {
	for range maxTries {
		err := p.put(fd, name)
		if err == nil {
			return name, Restored, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", 0, err
		}
		switch d.r.decide(fd, name, mtime) {
		case Skip:
			return "", Kept, nil
		case Copy:
			return d.placeCopy(fd, name, p)
		}
		err = p.over(fd, name)
		if errors.Is(err, errSame) {
			return name, Kept, nil
		}
		if errors.Is(err, errIsDir) {
			if err = rmdirAt(fd, name); err == nil || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if errors.Is(err, fs.ErrExist) { // ENOTEMPTY is one
				err = ErrFolder
			}
		}
		if err != nil {
			return "", 0, err
		}
		d.r.debug("replaced", d, name)
		return name, Replaced, nil
	}
	return "", 0, errRaced
}

func (d *Dir) placeCopy(fd int, name string, p placer) (string, Outcome, error) {
	for n := 1; n <= maxCopies; n++ {
		to := copyName(name, d.r.o.Suffix, n, false)
		err := p.put(fd, to)
		if err == nil {
			d.r.debug("restored as a copy", d, to)
			return to, Copied, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", 0, err
		}
	}
	return "", 0, fs.ErrExist
}

// tempPlacer places what has a temporary name in the same folder.
type tempPlacer string

func (t tempPlacer) put(fd int, to string) error  { return renameNew(fd, string(t), to) }
func (t tempPlacer) over(fd int, to string) error { return renameOver(fd, string(t), to) }

// debug logs what happened to name, without forming the path for nobody.
func (r *Root) debug(msg string, d *Dir, name string) {
	if r.o.Log.Enabled(context.Background(), slog.LevelDebug) {
		r.o.Log.Debug(msg, "path", d.path(name))
	}
}

// taken tells, for rules that keep what is there, whether name will be kept, so
// that nobody reads content for nothing. It is not the last word: place is.
func (d *Dir) taken(name string, mtime manifest.Time) (bool, error) {
	if d.fresh || d.r.o.Conflict == Copy || d.r.o.Conflict == Overwrite {
		return false, nil
	}
	fd, err := d.r.acquire(d)
	if err != nil {
		return false, err
	}
	defer d.r.release(d)
	if _, err := statAt(fd, name); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	return d.r.decide(fd, name, mtime) == Skip, nil
}
