package edge

import (
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
)

// A throttle allows one report for each key in reportEvery. It remembers at most max keys and forgets them in the order in
// which they came, so a call takes constant time. While max keys are fresh no other key is reported.
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

// slots limit how many of a kind there are at once.
type slots chan struct{}

// take reports whether a slot was left. The caller has to give it back.
func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) giveBack() { <-s }
