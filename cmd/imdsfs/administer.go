package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/clock"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// listenAdmin opens the admin socket, mode 0600. A socket that a killed daemon left behind is
// replaced; nobody else can be using it, because the run-time directory is locked.
//
// The path stays what it is: nobody else can exchange what is on the way.
func listenAdmin(path string) (net.Listener, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	parent, name, err := safepath.Policy{}.OpenParent(path)
	var refused *safepath.Error
	if errors.As(err, &refused) {
		return nil, problem.Invalid("choose another path with --admin", fmt.Errorf("admin socket %s: %w", path, err))
	}
	if err != nil {
		return nil, problem.Failed("choose another path with --admin, or --admin none", fmt.Errorf("admin socket %s: %w", path, err))
	}
	parent.Close()
	path = filepath.Join(parent.Name(), name)
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != os.ModeSocket:
		return nil, problem.Invalid("remove it, or choose another path with --admin", fmt.Errorf("admin socket %s: something else is there", path))
	default:
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := unix.Umask(0o177) // from its first moment: 0600
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, problem.Failed("choose another path with --admin, or --admin none", err)
	}
	return l, nil
}

// startAdmin answers the admin API until ctx ends; the socket is removed then.
func (p *process) startAdmin(ctx context.Context, running *sync.WaitGroup) error {
	if p.settings.admin == none {
		return nil
	}
	l, err := listenAdmin(p.settings.admin)
	if err != nil {
		return noRoom(err, filepath.Dir(p.settings.admin), "--admin")
	}
	c := &control.Control{Store: p.store, Overlay: p.overlay, Clock: p.clock, Reload: p.reloadNow, Upgrade: p.upgradeTo, Status: p.status}
	running.Go(func() {
		if err := c.Serve(ctx, l, p.descriptors.port); err != nil {
			p.log.WithError(err).Error("the admin socket is no longer answered")
		}
	})
	return nil
}

// reloadNow has the loop reload, and returns how it went.
func (p *process) reloadNow(ctx context.Context) (build.Change, error) {
	type outcome struct {
		change build.Change
		err    error
	}
	done := make(chan outcome, 1)
	ask := func(ctx context.Context) {
		change, err := p.reload(ctx, true)
		done <- outcome{change, err}
	}
	select {
	case p.asked <- ask:
	case <-ctx.Done():
		return build.Change{}, ctx.Err()
	}
	select {
	case o := <-done:
		return o.change, o.err
	case <-ctx.Done():
		return build.Change{}, ctx.Err()
	}
}

// status describes the daemon for imdsfs status.
func (p *process) status() control.Status {
	s := control.Status{
		Version: versionText(), PID: os.Getpid(), Started: p.started, Handover: p.kept.String(), Config: p.settings.config,
		Listeners: p.http.addresses(), Peers: p.peers.list(), Counters: p.counters(), Faults: p.faults(),
	}
	if p.mount != nil {
		s.Mount = &control.Mount{
			Dir: p.mount.Dir(), Private: p.mount.Private(), Resumed: p.mount.Resumed(), Inodes: p.mount.Inodes(),
			Handles: p.mount.FileHandles(), Stalled: p.mount.Stalled(), Requests: p.mount.Requests(),
		}
	}
	if p.link != nil {
		s.Addresses = p.link.Kind() + " link imds0"
	}
	for _, name := range p.store.Sources() {
		s.Sources = append(s.Sources, control.Source{Name: name, Loaded: p.store.Loaded()})
	}
	return s
}

// faults are those of the last reload, empty if it went well.
func (p *process) faults() []string {
	err := p.lastFault.Load()
	if err == nil {
		return nil
	}
	var faults problem.Faults
	if errors.As(*err, &faults) {
		return strings.Split(faults.Error(), "\n")
	}
	return []string{(*err).Error()}
}

const maxPeers = 64 // that status remembers

// A peerLog remembers who was not answered or got no token.
type peerLog struct {
	clock clock.Clock
	mu    sync.Mutex
	peers map[peerKey]*control.Peer
}

type peerKey struct {
	addr netip.Addr
	why  string
}

// note counts one more. Of too many peers the one not seen for longest is forgotten.
func (l *peerLog) note(addr netip.Addr, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.peers == nil {
		l.peers = map[peerKey]*control.Peer{}
	}
	k := peerKey{addr.WithZone(""), why}
	p := l.peers[k]
	if p == nil {
		if len(l.peers) >= maxPeers {
			oldest := k
			for other, q := range l.peers {
				if oldest == k || q.Last.Before(l.peers[oldest].Last) {
					oldest = other
				}
			}
			delete(l.peers, oldest)
		}
		p = &control.Peer{Address: k.addr.String(), Why: why}
		l.peers[k] = p
	}
	p.Last = l.clock.Now().UTC().Truncate(time.Second)
}

// list is the peers, the latest first.
func (l *peerLog) list() []control.Peer {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []control.Peer{}
	for _, p := range l.peers {
		list = append(list, *p)
	}
	slices.SortFunc(list, func(a, b control.Peer) int {
		return cmp.Or(b.Last.Compare(a.Last), strings.Compare(a.Address, b.Address))
	})
	return list
}
