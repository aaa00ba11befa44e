package daemon

import (
	"sync/atomic"
	"time"

	"github.com/imdsfs/imdsfs/source"
)

// An observer is told of every tree that the doors show, and how long they took to.
type observer struct {
	tell   func(next *source.Snapshot, took time.Duration)
	began  time.Time     // under the store's lock
	shown  atomic.Uint64 // trees
	failed atomic.Uint64 // changes that did not reach a door, but for those that the mount counts itself
}

// To be replaced by source.Store.Observe, which tells the same from within: begin and end are doors that show nothing,
// before and after the others.

func (o *observer) begin() source.Door {
	return doorFunc(func(*source.Snapshot) { o.began = time.Now() })
}

func (o *observer) end() source.Door {
	return doorFunc(func(next *source.Snapshot) {
		o.shown.Add(1)
		o.tell(next, time.Since(o.began))
	})
}

type doorFunc func(next *source.Snapshot)

func (f doorFunc) Publish(next *source.Snapshot) { f(next) }

// published is told of every tree that an instance shows.
func (d *Daemon) published(i *Instance, next *source.Snapshot, took time.Duration) {
	d.ports.metrics.exporter.ObservePublish(took)
	if err := d.followIPv6(next.Options().HTTPProtocolIPv6); err != nil {
		i.observer.failed.Add(1)
		d.Log.WithError(err).Error("http-protocol-ipv6 is not in force as it should be")
	}
}
