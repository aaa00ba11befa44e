package daemon

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/imds/edge"
)

// openEdge makes the server of HTTP. Every connection is about the one instance.
func (d *Daemon) openEdge(context.Context) (part, error) {
	access := d.Settings.access
	d.ports.edge = edge.New(edge.Config{
		Instances: d.instances[0].http, Clock: d.clock, Hosts: access.names, Allow: access.allow, OutsideGuests: access.outsideGuests,
		Addresses: d.ports.addresses, MaxConns: d.ports.descriptors.imds,
		RefusedPeer: func(peer netip.Addr) {
			d.peers.note(peer, "not in allow-from")
			d.Log.WithField("peer", peer).Warn("refused: not in allow-from; to have it answered, add its network with --allow-from beside local")
		},
		RefusedHost: func(name string) {
			d.Log.WithField("host", name).Warn("refused: unknown Host header; add the name with --host if it is yours")
		},
		Withheld: func(peer netip.Addr, hopLimit int) {
			d.peers.note(peer, fmt.Sprintf("got no token at hop limit %d", hopLimit))
			d.Log.WithFields(logrus.Fields{"peer": peer, "hop-limit": hopLimit}).Warn(
				"no token: the peer is further away than the hop limit allows; raise it (imdsfs options set " +
					"http-put-response-hop-limit=2), or bind-mount the files into the container")
		},
	})
	return part{}, nil
}
