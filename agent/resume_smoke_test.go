package agent
import "testing"
func TestSmoke(t *testing.T) {
	r := newRig(t)
	r.write("a/b.txt", "hello")
	r.write("a/c.txt", "hello2")
	p := r.clean()
	t.Logf("%+v", p)
	r.restored(p.Point)
	q := r.clean()
	t.Logf("%+v", q)
	f := r.fullScan()
	if r.root(f) != r.root(q.Point) { t.Error("roots") }
}
