package fs

import "time"

// experienced is closed when a time has passed for this process, or stop is closed. A while in which it gets no processor,
// because the machine is busy or stands still, counts as one tick: whoever is waited for has got none either.
func experienced(d time.Duration, stop <-chan struct{}) <-chan struct{} {
	const tick = 10 * time.Millisecond
	over := make(chan struct{})
	go func() {
		defer close(over)
		ticker := time.NewTicker(tick) // leaves out what is late
		defer ticker.Stop()
		for ; d > 0; d -= tick {
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	}()
	return over
}
