package edge

import (
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
)

// A throttle lets one report through for each key in reportEvery, and remembers at most max keys:
// while that many are fresh, other keys are not reported. A call costs the same however many there are:
// keys are forgotten in the order in which they came.
type throttle[K comparable] struct {
	clock clock.Clock
	max   int
	mu    sync.Mutex
	last  map[K]time.Duration // of Clock.Boot
	order []K                 // of last, the oldest first
}

func newThrottle[K comparable](clock clock.Clock, max int) *throttle[K] {
	return &throttle[K]{clock: clock, max: max, last: map[K]time.Duration{}}
}

func (t *throttle[K]) allow(key K) bool {
	now := t.clock.Boot()
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.order) > 0 && now-t.last[t.order[0]] >= reportEvery {
		delete(t.last, t.order[0])
		t.order = t.order[1:]
	}
	if _, fresh := t.last[key]; fresh || len(t.last) >= t.max {
		return false
	}
	t.last[key] = now
	t.order = append(t.order, key)
	return true
}

// slots bound how many of a kind there are at once.
type slots chan struct{}

// take reports whether there was one left. Who has it gives it back.
func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) giveBack() { <-s }
