package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/metrics"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// counters are what status tells of the HTTP door and of changes.
func (p *process) counters() control.Counters {
	c := p.server.Counts()
	return control.Counters{
		RequestsV2: c.WithToken, NoToken: c.NoToken, NoTokenRefused: c.NoTokenRejected,
		TokensIssued: c.TokensIssued, TokensWithheld: c.TokensWithheld, Connections: uint64(c.Open), PeersRefused: c.PeersRefused,
		Publishes: p.publishes.Load(), Reloads: p.reloads.Load(), ReloadFailures: p.failures.Load(),
	}
}

// listenMetrics opens the address for metrics, if there is one.
func (p *process) listenMetrics(ctx context.Context) (err error) {
	if p.settings.metrics == none {
		return nil
	}
	p.scrapers = p.metricsPort()
	if f := p.inherit(keptMetrics); f != nil {
		defer f.Close()
		p.metricsAt, err = net.FileListener(f)
		return err
	}
	if p.metricsAt, err = edge.Listen(ctx, p.settings.metrics); err != nil {
		return listenProblem("choose another address with --metrics", err)
	}
	return keepSocket(p.kept, keptMetrics, p.metricsAt)
}

// metricsPort is who may scrape.
func (p *process) metricsPort() (port metrics.Port) {
	port.Hosts, port.Allow = p.settings.names, p.settings.scrapers
	port.Addresses, port.Clock, port.MaxConns = p.addresses, p.clock, p.descriptors.port
	port.RefusedPeer = func(peer netip.Addr) {
		p.peers.note(peer, "not in metrics-allow-from")
		p.log.WithField("peer", peer).Warn("metrics refused: not in metrics-allow-from; to have it answered, add its network with --metrics-allow-from beside local")
	}
	return port
}

// startMetrics answers scrapes until ctx ends.
func (p *process) startMetrics(ctx context.Context, running *sync.WaitGroup) {
	if p.metricsAt == nil {
		return
	}
	p.log.WithField("address", p.metricsAt.Addr()).Info("serving metrics")
	running.Go(func() {
		if err := p.metrics.Serve(ctx, p.metricsAt, p.scrapers); err != nil {
			p.log.WithError(err).Error("metrics are no longer served")
		}
	})
}

// sample is what one scrape gets.
func (p *process) sample() metrics.Sample {
	c := p.server.Counts()
	s := metrics.Sample{
		Build:           metrics.Build{Version: versionText(), Go: runtime.Version(), GoFUSE: moduleVersion("github.com/hanwen/go-fuse/v2")},
		Requests:        map[metrics.Request]uint64{},
		MetadataNoToken: c.NoToken, MetadataNoTokenRejected: c.NoTokenRejected,
		TokensIssued: c.TokensIssued, TokensWithheld: c.TokensWithheld,
		ConnectionsOpen: uint64(c.Open), ConnectionsRefused: c.PeersRefused,
		Reloads: p.reloads.Load(), ReloadFailures: p.failures.Load(), ReloadFailing: p.lastFault.Load() != nil,
		CredentialsExpiry: credentialsExpiry(p.store.Snapshot()),
	}
	for _, a := range c.Answers {
		s.Requests[metrics.Request{V2: a.Version == 2, Method: a.Method, Code: a.Code}] = a.Count
	}
	for _, name := range p.store.Sources() {
		read := p.store.Loaded()
		if read.IsZero() { // a predecessor did, before the start
			read = p.started
		}
		s.Sources = append(s.Sources, metrics.Source{Name: name, Age: p.clock.Now().Sub(read)})
	}
	if p.mount != nil {
		s.Mount = &metrics.Mount{Mounted: true, Stalled: p.mount.Stalled()}
		select {
		case <-p.mount.Done():
			s.Mount.Mounted = false
		default:
		}
	}
	return s
}

// credentialsExpiry is when the credentials end that end first; zero without any.
func credentialsExpiry(snap *build.Snapshot) (first time.Time) {
	latest, _ := snap.View(tree.Latest)
	for _, v := range latest.Walk() {
		if at := v.Expires(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// publishing and published are told of every snapshot before and after the doors show it.
func (p *process) publishing(*build.Snapshot) { p.publishStart = time.Now() }

func (p *process) published(next *build.Snapshot) {
	p.publishes.Add(1)
	p.metrics.ObservePublish(time.Since(p.publishStart))
	if err := p.followIPv6(next.Options().HTTPProtocolIPv6); err != nil {
		p.log.WithError(err).Error("http-protocol-ipv6 is not in force as it should be")
	}
}

// followIPv6 has the IPv6 address come and go with the option, and a listener on it.
func (p *process) followIPv6(on bool) error {
	if on && p.link != nil {
		if err := p.link.SetIPv6(true); err != nil {
			return fmt.Errorf("the address cannot be had: %w", err)
		}
	}
	changed, err := p.http.followIPv6(on)
	if err != nil {
		return err
	}
	if changed {
		p.noteListeners()
	}
	if !on && p.link != nil {
		return p.link.SetIPv6(false)
	}
	return nil
}
