// Package clock is the time that everything asks which happens by itself, so that tests turn time by hand.
package clock

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Clock tells the time.
type Clock interface {
	// Now is the wall clock: credential expiry, events, Last-Modified.
	Now() time.Time
	// Boot is CLOCK_BOOTTIME: time since boot, suspend included. Token expiry counts it, so a
	// step of the wall clock neither voids nor stretches a token.
	Boot() time.Duration
	// At returns a channel that receives once the wall clock has reached t, and a function
	// that gives the wait up.
	At(t time.Time) (<-chan time.Time, func())
}

// System is the machine's clock.
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

// A Manual stands still until a test moves it.
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

// Advance lets d pass on both clocks.
func (c *Manual) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.boot += d
	c.set(c.now.Add(d))
}

// Step sets the wall clock alone, as an administrator or NTP would.
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
