// Package metrics exports what a running daemon counts to Prometheus.
//
//	m := metrics.New(func() metrics.Sample { return metrics.Sample{TokensIssued: issued.Load(), …} })
//	m.ObservePublish(took)                // whenever a new tree has reached the doors
//	err := m.Serve(ctx, listener, port)   // GET /metrics, until ctx ends
//
// Nobody is asked for a number before somebody scrapes: the function given to [New] is called once for
// each scrape, so all numbers of a scrape are of one moment. There is no global registry and no package
// state; a second daemon in the process would have an [Exporter] of its own.
//
// Labels take few values that are known beforehand, whatever clients send: a version (v1, v2), a method
// or "other", a status code, a source. No path, token, tag, instance id or address is ever a label.
//
// All names stand in collector.go. contrib/prometheus holds alert rules and contrib/grafana a dashboard
// for them, both checked against this package by its tests.
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
	idleTimeout   = 10 * time.Second // shorter than what Prometheus waits between scrapes: it connects anew
	maxHeader     = 16 << 10         // bytes
	maxInFlight   = 4                // scrapes at once; more are answered 503
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

// New returns an exporter of what read says, which is called concurrently, and of the Go runtime's and
// the process's own figures.
func New(read func() Sample) *Exporter {
	e := &Exporter{read: read, published: newPublishHistogram()}
	registry := prometheus.NewRegistry()
	registry.MustRegister(e, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxInFlight}))
	e.handler = mux
	return e
}

// ObservePublish counts one change that reached the doors, and how long the doors took to show it.
func (e *Exporter) ObservePublish(took time.Duration) { e.published.Observe(took.Seconds()) }

// ServeHTTP answers GET and HEAD of /metrics, and nothing else.
func (e *Exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) { e.handler.ServeHTTP(w, r) }

// A Port is who may scrape, and how.
type Port struct {
	edge.PortConfig
	Hosts imds.Hosts // that a request may be addressed to; another Host is answered 403
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
		ErrorLog:          log.New(io.Discard, "", 0), // it tells of nothing but what clients do wrong
	}
	defer context.AfterFunc(ctx, func() { server.Close() })()
	if err := server.Serve(guarded); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// onlyHosts refuses what a web page asks whose name has been pointed at us: its browser sends that name.
func (p *Port) onlyHosts(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != "" && !p.Hosts.Allow(r.Host) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
