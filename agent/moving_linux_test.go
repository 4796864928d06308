package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/tharsis-backup/tharsis/agent/source"
)

// A file that grows or shrinks once while it is read, at any step, is stored as it
// then is: the try that finds it at rest must not go by the size, or the holes, that
// it had when it was opened.
func TestSizeChangesOnceWhileRead(t *testing.T) {
	rng := rand.New(rand.NewPCG(81, 82))
	content := noise(rng, 600<<10)
	for _, was := range []int{20 << 10, 300 << 10} { // one chunk, several
		for _, is := range []int{10 << 10, 100 << 10, 600 << 10} {
			for _, op := range []source.Op{source.OpStatted, source.OpOpened, source.OpRead, source.OpChecked} {
				t.Run(fmt.Sprintf("%d to %d when %s", was, is, op), func(t *testing.T) {
					r := newRig(t)
					p := r.write("f", content[:was])
					var once sync.Once
					r.env.hook = func(s source.Step) {
						if s.Op == op && s.Path == p {
							once.Do(func() { noErr(t, os.WriteFile(p, []byte(content[:is]), 0o644)) })
						}
					}
					res := r.clean()
					r.env.hook = nil
					if op != source.OpChecked || was >= int(smallCut.Min) { // else it was read
						same(t, p, filepath.Join(r.restore(res.Point), p))
					}
					r.restored(r.clean().Point)
				})
			}
		}
	}
}
