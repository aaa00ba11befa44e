// Package clock tells the time. Code that acts on time gets a [Clock], so that a test can set the time by hand.
//
//	[System]: the machine's clock ─┐
//	                               ├─▶ Clock ──▶ Now: credential expiry, Last-Modified   Boot: token expiry   At: a timer
//	[Manual]: Advance, Step ───────┘
package clock

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Clock tells the time.
type Clock interface {
	// Now is the wall clock, for credential expiry, events and Last-Modified.
	Now() time.Time
	// Boot is CLOCK_BOOTTIME: the time since boot, including suspend. Tokens expire by it, so a step of the wall clock
	// neither ends nor extends a token.
	Boot() time.Duration
	// At returns a channel that receives once the wall clock has reached t, and a function that cancels the wait.
	At(t time.Time) (<-chan time.Time, func())
}

// System returns the machine's clock.
func System() Clock { return systemClock{} }

type systemClock struct{}

func (systemClock) Now() time.Time { return time.Now() }

func (systemClock) Boot() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // Linux has had it since 2.6.39
	}
	return time.Duration(ts.Nano())
}

func (systemClock) At(t time.Time) (<-chan time.Time, func()) {
	timer := time.NewTimer(time.Until(t))
	return timer.C, func() { timer.Stop() }
}

// A Manual is a clock that only a test moves.
type Manual struct {
	mu    sync.Mutex
	now   time.Time
	boot  time.Duration
	waits map[chan time.Time]time.Time
}

// NewManual returns a clock that shows now, one hour after boot.
func NewManual(now time.Time) *Manual {
	return &Manual{now: now, boot: time.Hour, waits: map[chan time.Time]time.Time{}}
}

func (c *Manual) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *Manual) Boot() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.boot
}

// Advance moves both clocks forward by d.
func (c *Manual) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot += d
	c.set(c.now.Add(d))
}

// Step sets only the wall clock, as an administrator or NTP does.
func (c *Manual) Step(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(now)
}

func (c *Manual) set(now time.Time) {
	c.now = now
	for ch, t := range c.waits {
		if !t.After(now) {
			ch <- now
			delete(c.waits, ch)
		}
	}
}

func (c *Manual) At(t time.Time) (<-chan time.Time, func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan time.Time, 1)
	if !t.After(c.now) {
		ch <- c.now
		return ch, func() {}
	}
	c.waits[ch] = t
	return ch, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.waits, ch)
	}
}
