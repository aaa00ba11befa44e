package daemon

import (
	"sync/atomic"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
)

// An observer counts the trees that the doors show.
type observer struct {
	shown  atomic.Uint64 // trees
	failed atomic.Uint64 // changes that did not reach a door, without those that the mount counts itself
}

// countPublish is called after the doors show a tree; took is how long they needed.
func (i *Instance) countPublish(took time.Duration) {
	i.observer.shown.Add(1)
	i.published(i.store.Snapshot(), took)
}

// published follows every tree that an instance shows: it measures, and opens or closes the IPv6 address.
func (d *Daemon) published(i *Instance, next *build.Snapshot, took time.Duration) {
	d.ports.metrics.exporter.ObservePublish(took)
	if err := d.followIPv6(next.Options().HTTPProtocolIPv6); err != nil {
		i.observer.failed.Add(1)
		d.Log.WithError(err).Error("http-protocol-ipv6 is not in force as it should be")
	}
}
