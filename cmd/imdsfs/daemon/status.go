package daemon

import (
	"errors"
	"os"
	"strings"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/problem"
)

// status describes the daemon for imdsfs status.
func (d *Daemon) status() control.Status {
	s := control.Status{
		Version: d.Build.Version, PID: os.Getpid(), Started: d.started, Handover: d.Handover.String(), Config: d.Settings.File,
		Listeners: d.Addresses(), Peers: d.peers.list(), Counters: d.counters(),
	}
	if d.ports.link != nil {
		s.Addresses = d.ports.link.Kind() + " link imds0"
	}
	d.instances[0].describe(&s)
	return s
}

// describe adds the status of the instance.
func (i *Instance) describe(s *control.Status) {
	s.Faults = i.history.faults()
	if i.mount != nil {
		s.Mount = &control.Mount{
			Dir: i.mount.Dir(), Private: i.mount.Private(), Resumed: i.mount.Resumed(), Inodes: i.mount.Inodes(),
			Handles: i.mount.FileHandles(), Stalled: i.mount.Stalled(), Requests: i.mount.Requests(),
		}
	}
	for _, source := range i.store.Status() {
		s.Sources = append(s.Sources, describeSource(source))
	}
}

func describeSource(s source.Status) control.Source {
	described := control.Source{Name: s.Name, Loaded: s.Loaded}
	var faults problem.Faults // are shown as such
	if s.Err != nil && !errors.As(s.Err, &faults) {
		described.Error = s.Err.Error()
	}
	return described
}

// faults returns the faults of the last reload, nil if it succeeded.
func (h *history) faults() []string {
	err := h.fault.Load()
	if err == nil {
		return nil
	}
	var faults problem.Faults
	if errors.As(*err, &faults) {
		return strings.Split(faults.Error(), "\n")
	}
	return []string{(*err).Error()}
}

// counters returns the counters of the HTTP door and of changes, for status.
func (d *Daemon) counters() control.Counters {
	i, c := d.instances[0], d.ports.edge.Counts()
	return control.Counters{
		RequestsV2: c.WithToken, NoToken: c.NoToken, NoTokenRefused: c.NoTokenRejected,
		TokensIssued: c.TokensIssued, TokensWithheld: c.TokensWithheld, Connections: uint64(c.Open), PeersRefused: c.PeersRefused,
		Publishes: i.observer.shown.Load(), Reloads: i.history.reloads.Load(), ReloadFailures: i.history.failures.Load(),
	}
}
