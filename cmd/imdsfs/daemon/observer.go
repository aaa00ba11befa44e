package daemon

import (
	"sync/atomic"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
)

// An observer counts the trees that the doors show.
type observer struct {
	shown  atomic.Uint64 // trees
	failed atomic.Uint64 // changes that did not reach a door, but for those that the mount counts itself
}

// OnPublish is called behind the doors, after each tree that they show, with how long they took to.
func (i *Instance) OnPublish(_ build.Change, took time.Duration) {
	i.observer.shown.Add(1)
	i.published(i.store.Snapshot(), took)
}

// published is told of every tree that an instance shows.
func (d *Daemon) published(i *Instance, next *build.Snapshot, took time.Duration) {
	d.ports.metrics.exporter.ObservePublish(took)
	if err := d.followIPv6(next.Options().HTTPProtocolIPv6); err != nil {
		i.observer.failed.Add(1)
		d.Log.WithError(err).Error("http-protocol-ipv6 is not in force as it should be")
	}
}
