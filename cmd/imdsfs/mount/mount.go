// Package mount is what mount(8) and systemd call around a daemon: the program mount.fuse.imdsfs, which starts a daemon in
// the background, and imdsfs mount-helper, which root runs for a daemon that may not mount.
//
//	mount(8) ─ SOURCE DIR -o OPTIONS ─→ Request ─ options.go ─→ flags of imdsfs serve ─→ daemon.Settings
//	   ↑                                   └─ background.go ─→ imdsfs serve, in a session of its own
//	   └───── exit status ←──── READY=1, or the daemon's error ────┘
//
//	unit or keeper ─→ mount-helper ─┬─ PrepareStart: wait for the turn, add the addresses, mount ─→ handover.Store ─→ daemon
//	                                └─ AfterStop, TakeAway: unmount, remove the addresses
//
// The subcommands themselves, with their flags and help, are mountfuse.go and mounthelper.go of package main.
package mount

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Exit statuses that mount(8) expects of the program that it calls.
const (
	ExitUsage  = 1
	ExitSystem = 2
	ExitFailed = 32
)

// IsCalled reports whether mount(8) calls this program. What such a program starts in the background may have the same name.
func IsCalled() bool {
	name := filepath.Base(os.Args[0])
	return (name == "mount.fuse.imdsfs" || name == "mount.imdsfs") && !startedInBackground()
}

// A Request is what mount(8) asks for.
type Request struct {
	Source  string // the instance file; "", none or imdsfs: describe this machine
	Dir     string
	Options []string // of -o, as they came
	Sloppy  bool     // -s: ignore unknown options
	Fake    bool     // -f: check only
	Verbose bool     // -v

	// ParseServe parses flags of imdsfs serve.
	ParseServe func(flags []string) (daemon.Config, error)
	Stderr     io.Writer
	// Warn prints a warning to Stderr.
	Warn func(text string)
}

// A plan is what a request means.
type plan struct {
	args     []string // of the daemon
	settings *daemon.Settings
	source   string // of the mount; mount(8) looks for it in the list of mounts
	log      string // the file where the daemon logs, "" for none
	verbose  bool
	stderr   io.Writer
}

// Do starts the daemon that a request asks for, and returns when it is ready. With Fake it checks the instance file
// instead. The error is a problem of usage, or a [problem.Exit].
func (r *Request) Do(ctx context.Context) error {
	p, config, err := r.plan()
	if err != nil {
		return err
	}
	if p.settings, err = config.Validate(nil); err != nil {
		return &problem.Exit{Code: ExitFailed, Err: err}
	}
	if !r.Fake {
		return p.start(ctx)
	}
	warnings, err := p.settings.Build(ctx)
	if err != nil {
		return &problem.Exit{Code: ExitFailed, Err: err}
	}
	for _, w := range warnings {
		r.Warn(w.String())
	}
	return nil
}

// plan makes flags of serve, and a configuration, of a request.
func (r *Request) plan() (*plan, daemon.Config, error) {
	p := &plan{source: r.Source, verbose: r.Verbose, stderr: r.Stderr}
	flags, err := r.flags()
	if err != nil {
		return nil, daemon.Config{}, err
	}
	file := daemon.None
	if r.Source != "" && r.Source != daemon.None && r.Source != "imdsfs" {
		if file, err = filepath.Abs(r.Source); err != nil {
			return nil, daemon.Config{}, &problem.Exit{Code: ExitSystem, Err: err}
		}
	}
	dir, err := filepath.Abs(r.Dir)
	if err != nil {
		return nil, daemon.Config{}, &problem.Exit{Code: ExitSystem, Err: err}
	}
	p.log = flags.log
	p.args = append([]string{"serve", "--config", file, "--mount", dir}, flags.serve...)
	config, err := r.ParseServe(p.args[1:])
	if err != nil {
		return nil, daemon.Config{}, problem.Usage("see imdsfs serve --help", err)
	}
	return p, config, nil
}

// note prints what is worth a line only with -v.
func (r *Request) note(format string, args ...any) {
	if r.Verbose {
		fmt.Fprintf(r.Stderr, "imdsfs: "+format+"\n", args...)
	}
}
