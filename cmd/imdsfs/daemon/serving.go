package daemon

import (
	"context"
	"sync"
)

// serving is the time in which a daemon answers. It ends when the parts are closed, not with the signal.
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

// run runs f until the end of serving, which waits for it. f returns when its context ends.
func (s *serving) run(f func(ctx context.Context)) { s.running.Go(func() { f(s.ctx) }) }
