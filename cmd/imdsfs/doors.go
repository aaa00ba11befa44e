package main

import (
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
	tokens, err := token.Open(s.runtimeDir, p.clock)
	if err != nil {
		return nil, noRoom(err, s.runtimeDir, "--runtime-dir")
	}
	return edge.New(edge.Config{
		Tokens: tokens, Clock: p.clock, Hosts: s.names, Allow: s.allow, OutsideGuests: s.outsideGuests,
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
	dir := p.settings.mount
	cfg := fs.Config{
		Dir: dir, Source: os.Getenv(sourceVariable), RuntimeDir: p.settings.runtimeDir, Clock: p.clock, Predecessor: predecessor,
		Warn: func(text string) { p.log.WithField("mount", dir).Warn(text) },
	}
	if p.kept.Durable() {
		cfg.Keeper = p.kept
	}
	door, err := fs.Mount(cfg, p.store.Snapshot())
	if problem.Hint(err) != "" {
		return nil, err
	}
	return door, noRoom(err, p.settings.runtimeDir, "--runtime-dir")
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
