package fs

import (
	"sync"
	"sync/atomic"
	"time"
)

const (
	// stallGrace is how long the other directories wait for one whose notification does not return.
	stallGrace = 100 * time.Millisecond
	// maxWorkers bounds the threads that hang in the kernel. When there are as many directories with a hanging listing, new
	// values wait.
	maxWorkers = 64
)

// workers do things one after the other. While one takes longer than grace, another worker goes on with the rest.
type workers struct {
	grace  time.Duration
	active atomic.Int64
}

// run begins to do n things, and returns.
func (w *workers) run(n int, work func(i int)) {
	var mu sync.Mutex
	next := 0
	var worker func()
	worker = func() {
		w.active.Add(1)
		defer w.active.Add(-1)
		for {
			mu.Lock()
			i := next
			next++
			mu.Unlock()
			if i >= n {
				return
			}
			replaced := false
			timer := time.AfterFunc(w.grace, func() {
				mu.Lock()
				defer mu.Unlock()
				if replaced = next < n && w.active.Load() < maxWorkers; replaced {
					go worker()
				}
			})
			work(i)
			timer.Stop()
			mu.Lock()
			over := replaced
			mu.Unlock()
			if over {
				return
			}
		}
	}
	go worker()
}
