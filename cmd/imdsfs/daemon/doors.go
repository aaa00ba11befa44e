package daemon

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/token"
	"github.com/imdsfs/imdsfs/source/problem"
)

func (p *process) newEdge() (*edge.Server, error) {
	s := p.settings
	tokens, err := token.Open(s.RuntimeDir, p.clock)
	if err != nil {
		return nil, NoRoom(err, s.RuntimeDir, "--runtime-dir")
	}
	return edge.New(edge.Config{
		Tokens: tokens, Clock: p.clock, Hosts: s.access.names, Allow: s.access.allow, OutsideGuests: s.access.outsideGuests,
		Addresses: p.addresses, MaxConns: p.descriptors.imds,
		RefusedPeer: func(peer netip.Addr) {
			p.peers.note(peer, "not in allow-from")
			p.log.WithField("peer", peer).Warn("refused: not in allow-from; to have it answered, add its network with --allow-from beside local")
		},
		RefusedHost: func(name string) {
			p.log.WithField("host", name).Warn("refused: unknown Host header; add the name with --host if it is yours")
		},
		Withheld: func(peer netip.Addr, hopLimit int) {
			p.peers.note(peer, fmt.Sprintf("got no token at hop limit %d", hopLimit))
			p.log.WithFields(logrus.Fields{"peer": peer, "hop-limit": hopLimit}).Warn(
				"no token: the peer is further away than the hop limit allows; raise it (imdsfs options set " +
					"http-put-response-hop-limit=2), or bind-mount the files into the container")
		},
	}), nil
}

func (p *process) mountDoor(predecessor *fs.Predecessor) (*fs.Door, error) {
	dir := p.settings.Mount
	cfg := fs.Config{
		Dir: dir, Source: os.Getenv(MountSourceVariable), RuntimeDir: p.settings.RuntimeDir, Clock: p.clock, Predecessor: predecessor,
		Warn: func(text string) { p.log.WithField("mount", dir).Warn(text) },
	}
	if p.kept.Durable() {
		cfg.Keeper = p.kept
	}
	door, err := fs.Mount(cfg, p.store.Snapshot())
	if point := PointProblem(err); point != nil {
		return nil, point
	}
	return door, NoRoom(err, p.settings.RuntimeDir, "--runtime-dir")
}

// PointProblem is the failure of a mount point that is refused, nil if err is none. What stands there will not go by
// itself; what is mounted or served there may.
func PointProblem(err error) error {
	var point *fs.PointError
	if !errors.As(err, &point) {
		return nil
	}
	for _, lasting := range []error{fs.ErrNotDir, fs.ErrNotEmpty, fs.ErrNoParent, fs.ErrExchangeable} {
		if errors.Is(err, lasting) {
			return problem.Invalid(point.Hint, err)
		}
	}
	return problem.Failed(point.Hint, err)
}

// unmount is the end of the mount, or has a successor go on with it.
func (p *process) unmount() {
	if p.successor {
		err := p.handOverMount()
		if err == nil {
			return
		}
		p.log.WithError(err).Error("not handed over: stopping")
		p.successor = false
	}
	if err := p.mount.Unmount(); err != nil {
		p.log.WithError(err).Error("unmount")
	}
}
