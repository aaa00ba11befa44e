package daemon

import (
	"context"
	"sync"
)

// serving is the time in which a daemon answers. It ends after the last word in the log, not with the signal.
type serving struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

func newServing(parent context.Context) *serving {
	s := &serving{}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(parent))
	return s
}

// run has f run meanwhile. f ends with its context, and is waited for.
func (s *serving) run(f func(ctx context.Context)) { s.running.Go(func() { f(s.ctx) }) }
