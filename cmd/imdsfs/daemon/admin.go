package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/imds/control"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/safepath"
)

// AdminSocket returns the default path of the admin socket.
func AdminSocket(runtimeDir string) string { return filepath.Join(runtimeDir, "admin.sock") }

// listenAdmin opens the admin socket, mode 0600. It replaces a socket that a killed daemon left behind: no other daemon
// can be using it, because the run-time directory is locked. It refuses a path that another user could exchange.
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
	old := unix.Umask(0o177) // so that its mode is 0600 from the first moment
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, problem.Failed("choose another path with --admin, or --admin none", err)
	}
	return l, nil
}

// serveAdmin serves the admin API. Serve removes the socket at the end.
func (d *Daemon) serveAdmin(context.Context) (part, error) {
	path := d.Settings.Admin
	if path == None {
		return part{}, nil
	}
	l, err := listenAdmin(path)
	if err != nil {
		return part{}, NoRoom(err, filepath.Dir(path), "--admin")
	}
	i := d.instances[0]
	c := &control.Control{Store: i.store, Overlay: i.overlay, Clock: d.clock, Reload: d.reloadNow, Upgrade: d.upgradeTo, Status: d.status}
	d.serving.run(func(ctx context.Context) {
		if err := c.Serve(ctx, l, d.ports.descriptors.port); err != nil {
			d.Log.WithError(err).Error("the admin socket is no longer answered")
		}
	})
	return part{}, nil
}

// reloadNow lets the loop reload, waits, and returns what has changed.
func (d *Daemon) reloadNow(ctx context.Context) (build.Change, error) {
	type outcome struct {
		change build.Change
		err    error
	}
	done := make(chan outcome, 1)
	ask := func(ctx context.Context) {
		change, err := d.instances[0].reload(ctx, true)
		done <- outcome{change, err}
	}
	select {
	case d.asked <- ask:
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
