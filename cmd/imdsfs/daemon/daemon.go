// Package daemon is the running daemon.
package daemon

import (
	"os"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/imds/metrics"
	"github.com/imdsfs/imdsfs/source"
)

// A Start is what a daemon is started with.
type Start struct {
	Settings *Settings
	Handover *handover.Store       // what a predecessor has left, and a successor gets
	Sockets  map[string][]*os.File // that a socket unit hands over, by name
	Log      *logrus.Logger
	Build    metrics.Build // of this program
	// Within is set where another command runs the daemon in its own process, and is called when the daemon is ready.
	// The daemon then takes no signals, has no successor, and ends with its context.
	Within func(*Running)
}

// Running is a daemon that is ready.
type Running struct{ p *process }

// Addresses are those that are really listened on.
func (r *Running) Addresses() []string { return r.p.http.addresses() }

// Snapshot is the tree that is served.
func (r *Running) Snapshot() *source.Snapshot { return r.p.store.Snapshot() }
