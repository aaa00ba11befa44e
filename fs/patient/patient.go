// Package patient waits for another process without blaming it for a busy machine:
//
//	patient.After(time.Second, stop)   closed after a second in which this process got processors
//
// A plain timer goes on while this process gets no processor. Whoever it waits for gets none either, and would be taken
// for one that hangs.
package patient

import "time"

const (
	tick = 10 * time.Millisecond
	// maxStretch bounds the wait, in multiples of the time that was asked for.
	maxStretch = 10
)

// After returns a channel that is closed when d has passed for this process, or when stop is closed. A pause in which the
// process gets no processor, because the machine is busy or stands still, counts as one tick. At the latest the channel
// is closed when maxStretch times d has passed by the clock.
func After(d time.Duration, stop <-chan struct{}) <-chan struct{} {
	over, limit := make(chan struct{}), time.NewTimer(maxStretch*d)
	go func() {
		defer close(over)
		ticker := time.NewTicker(tick) // skips ticks that are late
		defer ticker.Stop()
		defer limit.Stop()
		for ; d > 0; d -= tick {
			select {
			case <-ticker.C:
			case <-limit.C:
				return
			case <-stop:
				return
			}
		}
	}()
	return over
}
