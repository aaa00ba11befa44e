package fs

import "time"

const mostStretched = 10

// experienced is closed when a time has passed for this process, or stop is closed. A while in which it gets no processor,
// because the machine is busy or stands still, counts as one tick: whoever is waited for has got none either. That is
// over when mostStretched times as much has passed by the clock.
func experienced(d time.Duration, stop <-chan struct{}) <-chan struct{} {
	const tick = 10 * time.Millisecond
	over, limit := make(chan struct{}), time.NewTimer(mostStretched*d)
	go func() {
		defer close(over)
		ticker := time.NewTicker(tick) // leaves out what is late
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
