package edge

import (
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source"
)

// A throttle lets one report through for each key in reportEvery, and remembers at most max keys:
// while that many are fresh, other keys are not reported.
type throttle[K comparable] struct {
	clock source.Clock
	max   int
	mu    sync.Mutex
	last  map[K]time.Duration // of Clock.Boot
}

func newThrottle[K comparable](clock source.Clock, max int) *throttle[K] {
	return &throttle[K]{clock: clock, max: max, last: map[K]time.Duration{}}
}

func (t *throttle[K]) allow(key K) bool {
	now := t.clock.Boot()
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[key]; ok && now-last < reportEvery {
		return false
	}
	if len(t.last) >= t.max {
		for k, last := range t.last {
			if now-last >= reportEvery {
				delete(t.last, k)
			}
		}
	}
	if len(t.last) >= t.max {
		return false
	}
	t.last[key] = now
	return true
}
