package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"
)

// longWorkers is how many cases of a long run go on at a time.
const longWorkers = 2

// longRun is a run of random cases: few in a plain run, and with THARSIS_ALL as many
// as a night is for. THARSIS_COUNT says another number, THARSIS_TIME (as Go writes
// durations) when to stop at the latest, and THARSIS_SEED where the seeds begin: a
// failing case names its seed, and THARSIS_SEED=n THARSIS_COUNT=1 is that case alone.
type longRun struct {
	t    *testing.T
	want int
	what string // that is counted

	mu    sync.Mutex
	next  int
	done  int
	until time.Time
	begun time.Time
}

func newLongRun(t *testing.T, what string, plain, all int) *longRun {
	l := &longRun{t: t, what: what, want: plain, next: envInt("THARSIS_SEED", 1), begun: time.Now()}
	if os.Getenv(faultAllEnv) != "" {
		l.want = all
	}
	if raceOn {
		l.want = (l.want + 3) / 4
	}
	l.want = envInt("THARSIS_COUNT", l.want)
	if s := os.Getenv("THARSIS_TIME"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatalf("THARSIS_TIME: %v", err)
		}
		l.until = l.begun.Add(d)
	}
	return l
}

// run runs cases, which tell how much they counted, until there is enough or no
// more time. Each minute it prints how far it is.
func (l *longRun) run(each func(t *testing.T, rng *rand.Rand) int) {
	stop := make(chan struct{})
	var tell sync.WaitGroup
	tell.Go(func() {
		for tick := time.NewTicker(time.Minute); ; {
			select {
			case <-stop:
				tick.Stop()
				return
			case <-tick.C:
				l.checkpoint()
			}
		}
	})
	for l.more() {
		l.t.Run("", func(t *testing.T) {
			for range longWorkers {
				seed := l.seed()
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					t.Parallel()
					n := each(t, rand.New(rand.NewPCG(uint64(seed), 0x7468617273697321)))
					l.mu.Lock()
					defer l.mu.Unlock()
					l.done += n
				})
				if !l.more() || l.want == 1 {
					return
				}
			}
		})
	}
	close(stop)
	tell.Wait()
	l.t.Logf("%d %s of %d, seeds up to %d", l.done, l.what, l.want, l.next-1)
}

func (l *longRun) more() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done < l.want && (l.until.IsZero() || time.Now().Before(l.until))
}

func (l *longRun) seed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next++
	return l.next - 1
}

func (l *longRun) checkpoint() {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(os.Stderr, "%s: %d %s of %d, at seed %d, after %s\n", l.t.Name(), l.done, l.what, l.want, l.next-1, time.Since(l.begun).Round(time.Second))
}
