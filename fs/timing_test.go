package fs

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source"
)

// TestPublishingIsQuick has the kernel know every directory of every version, the worst case. The
// bounds, 2 ms for one value and 200 ms for 1,000, are ten times as wide here and for the best round, where
// others use the machine too.
func TestPublishingIsQuick(t *testing.T) {
	const rounds = 21
	for _, c := range []struct {
		values int
		bound  time.Duration
	}{{1, 20 * time.Millisecond}, {1000, 2 * time.Second}} {
		change := func(prev *source.Snapshot, turn int) *source.Snapshot {
			var pairs []string
			for i := range c.values {
				pairs = append(pairs, fmt.Sprintf("meta-data/tags/instance/k%d", i), fmt.Sprint(turn))
			}
			return build(t, prev, pairs...)
		}
		prev := change(nil, 0)
		d := mountSnapshot(t, prev)
		var took []time.Duration
		for turn := range rounds {
			if out, err := run(t, os.Getuid(), "ls", "-lR", d.Dir()); err != nil {
				t.Fatalf("%v: %.200s", err, out)
			}
			prev = change(prev, turn+1)
			start := time.Now()
			d.Publish(prev)
			took = append(took, time.Since(start))
			path := fmt.Sprintf("%s/latest/meta-data/tags/instance/k%d", d.Dir(), c.values-1)
			if got := mustRead(t, path); got != fmt.Sprint(turn+1) {
				t.Fatalf("round %d: %q", turn, got)
			}
		}
		slices.Sort(took)
		t.Logf("publish of %d values: median %v, least %v, most %v", c.values, took[rounds/2], took[0], took[rounds-1])
		if took[0] > c.bound {
			t.Errorf("publish of %d values: at least %v, want %v", c.values, took[0], c.bound)
		}
	}
}

// BenchmarkPublish changes n values in a directory that the kernel knows in every version.
func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			change := func(prev *source.Snapshot, turn int) *source.Snapshot {
				var pairs []string
				for i := range n {
					pairs = append(pairs, fmt.Sprintf("meta-data/tags/instance/k%d", i), fmt.Sprint(turn))
				}
				return build(b, prev, pairs...)
			}
			turn := 0
			prev := change(nil, turn)
			d := mountSnapshot(b, prev)
			for b.Loop() {
				b.StopTimer()
				if out, err := run(b, 0, "ls", "-lR", d.Dir()); err != nil {
					b.Fatalf("%v: %.200s", err, out)
				}
				turn++
				prev = change(prev, turn)
				b.StartTimer()
				d.Publish(prev)
			}
		})
	}
}
