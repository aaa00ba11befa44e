// Package metrics exports the counters of a running daemon to Prometheus:
//
//	GET /metrics ──▶ Port: who may ask? ──▶ Exporter.Collect ──▶ the function given to New ──▶ Sample
//	                                                                                            │
//	text format ◀── promhttp ◀── prometheus.Metric ◀────────────────────────────────────────────┘
//
//	m := metrics.New(func() metrics.Sample { return metrics.Sample{TokensIssued: issued.Load(), …} })
//	m.ObservePublish(took)                // whenever the mount and HTTP show a new tree
//	err := m.Serve(ctx, listener, port)   // until ctx ends
//
// The function given to [New] is called once for each scrape, so all numbers of a scrape are of one moment, and they cost
// nothing in between. There is no global registry and no package state: a second daemon in the process would have an
// [Exporter] of its own.
//
// Labels have few values, which are known beforehand whatever clients send: a version (v1, v2), a method or "other", a
// status code, a source. A path, token, tag, instance id or address is never a label.
//
// All names are in collector.go. contrib/prometheus has alert rules and contrib/grafana a dashboard for them. The tests of
// this package check both.
package metrics

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/imdsfs/imdsfs/imds"
	"github.com/imdsfs/imdsfs/imds/edge"
)

const (
	headerTimeout = 5 * time.Second
	writeTimeout  = 10 * time.Second
	idleTimeout   = 10 * time.Second // shorter than the time between two scrapes of Prometheus, which connects again
	maxHeader     = 16 << 10         // bytes
	maxInFlight   = 4                // scrapes at once; more get 503
)

// An Exporter answers scrapes. It is safe for concurrent use.
type Exporter struct {
	read      func() Sample
	published prometheus.Histogram
	handler   http.Handler
}

var (
	_ prometheus.Collector = (*Exporter)(nil)
	_ http.Handler         = (*Exporter)(nil)
)

// New returns an exporter of the samples that read returns, and of the metrics of the Go runtime and of the process. read
// is called concurrently.
func New(read func() Sample) *Exporter {
	e := &Exporter{read: read, published: newPublishHistogram()}
	registry := prometheus.NewRegistry()
	registry.MustRegister(e, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxInFlight}))
	e.handler = mux
	return e
}

// ObservePublish counts a change that the mount and HTTP show, and how long they took.
func (e *Exporter) ObservePublish(took time.Duration) { e.published.Observe(took.Seconds()) }

// ServeHTTP answers GET and HEAD of /metrics, and nothing else.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.handler.ServeHTTP(w, r) }

// A Port is who may scrape, and how.
type Port struct {
	edge.PortConfig
	Hosts imds.Hosts // to which a request may be addressed; another Host gets 403
}

// Serve answers scrapes on the listener, which it takes over, until ctx ends; then it returns nil.
func (e *Exporter) Serve(ctx context.Context, listener net.Listener, port Port) error {
	guarded := edge.Guard(listener, port.PortConfig)
	server := &http.Server{
		Handler:           port.onlyHosts(e),
		ConnState:         guarded.ConnState,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(io.Discard, "", 0), // it only reports what clients do wrong
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(guarded); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// onlyHosts refuses requests of a web page whose name has been pointed at our address: its browser sends that name.
func (p *Port) onlyHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "" && !p.Hosts.Allow(r.Host) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
