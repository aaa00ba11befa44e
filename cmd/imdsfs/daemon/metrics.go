package daemon

import (
	"context"
	"net"
	"net/netip"
	"time"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/imds/metrics"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A metricsPort serves the metrics.
type metricsPort struct {
	exporter *metrics.Exporter
	listener net.Listener // nil without a port
	access   metrics.Port // who may scrape
}

// openMetrics opens the address for metrics, if the settings name one.
func (d *Daemon) openMetrics(ctx context.Context) (part, error) {
	m := &d.ports.metrics
	m.exporter = metrics.New(d.sample)
	if d.Settings.Metrics == None {
		return part{}, nil
	}
	m.access = d.metricsAccess()
	if err := m.open(ctx, d.Settings.Metrics, d.Handover); err != nil {
		return part{}, err
	}
	return part{
		Close:    func() { d.Handover.Drop(keptMetrics); m.listener.Close() },
		HandOver: func() error { m.listener.Close(); return nil },
	}, nil
}

// open takes over the socket of a predecessor, or opens one.
func (m *metricsPort) open(ctx context.Context, address string, store *handover.Store) (err error) {
	if f := store.Take(keptMetrics); f != nil {
		defer f.Close()
		m.listener, err = net.FileListener(f)
		return err
	}
	if m.listener, err = edge.Listen(ctx, address); err != nil {
		return listenProblem("choose another address with --metrics", err)
	}
	if err := keepSocket(store, keptMetrics, m.listener); err != nil {
		m.listener.Close()
		return err
	}
	return nil
}

// metricsAccess says who may scrape.
func (d *Daemon) metricsAccess() (port metrics.Port) {
	port.Hosts, port.Allow = d.Settings.access.names, d.Settings.access.scrapers
	port.Addresses, port.Clock, port.MaxConns = d.ports.addresses, d.clock, d.ports.descriptors.port
	port.RefusedPeer = func(peer netip.Addr) {
		d.peers.note(peer, "not in metrics-allow-from")
		d.Log.WithField("peer", peer).Warn("metrics refused: not in metrics-allow-from; to have it answered, add its network with --metrics-allow-from beside local")
	}
	return port
}

// serveMetrics answers scrapes.
func (d *Daemon) serveMetrics(context.Context) (part, error) {
	m := &d.ports.metrics
	if m.listener == nil {
		return part{}, nil
	}
	d.Log.WithField("address", m.listener.Addr()).Info("serving metrics")
	d.serving.run(func(ctx context.Context) {
		if err := m.exporter.Serve(ctx, m.listener, m.access); err != nil {
			d.Log.WithError(err).Error("metrics are no longer served")
		}
	})
	return part{}, nil
}

// sample returns the values for one scrape.
func (d *Daemon) sample() metrics.Sample {
	i, c := d.instances[0], d.ports.edge.Counts()
	s := metrics.Sample{
		Build:           d.Build,
		Requests:        map[metrics.Request]uint64{},
		MetadataNoToken: c.NoToken, MetadataNoTokenRejected: c.NoTokenRejected,
		TokensIssued: c.TokensIssued, TokensWithheld: c.TokensWithheld,
		ConnectionsOpen: uint64(c.Open), ConnectionsRefused: c.PeersRefused,
		PublishFailures: i.observer.failed.Load(),
		Reloads:         i.history.reloads.Load(), ReloadFailures: i.history.failures.Load(), ReloadFailing: i.history.fault.Load() != nil,
		CredentialsExpiry: credentialsExpiry(i.store.Snapshot()),
	}
	for _, a := range c.Answers {
		s.Requests[metrics.Request{V2: a.Version == 2, Method: a.Method, Code: a.Code}] = a.Count
	}
	for _, source := range i.store.Status() {
		read := source.Loaded
		if read.IsZero() { // a predecessor read it, before the start
			read = d.started
		}
		s.Sources = append(s.Sources, metrics.Source{Name: source.Name, Age: d.clock.Now().Sub(read)})
	}
	if i.mount != nil {
		s.Mount = &metrics.Mount{Mounted: true, Stalled: i.mount.Stalled()}
		s.PublishFailures += s.Mount.Stalled
		select {
		case <-i.mount.Done():
			s.Mount.Mounted = false
		default:
		}
	}
	return s
}

// credentialsExpiry returns when the first credentials expire; zero without any.
func credentialsExpiry(snap *build.Snapshot) (first time.Time) {
	latest, _ := snap.View(tree.Latest)
	for _, v := range latest.Walk() {
		if at := v.Expires(); !at.IsZero() && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}
