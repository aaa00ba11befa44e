package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/fs/fault"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// What this package keeps, besides the sockets of HTTP (listen.go) and what fs does.
const (
	keptLock    = "lock"
	keptMetrics = "metrics"
	keptServer  = "server" // what [server] says, as JSON
)

// ErrHandedOver ends a daemon for a successor. It is nothing to complain about.
var ErrHandedOver = errors.New("handed over")

// inherit is what a predecessor kept under a name, nil if there is nothing.
func (p *process) inherit(name string) *os.File {
	f := p.kept.Inherited()[name]
	delete(p.kept.Inherited(), name)
	return f
}

// keptOf is what a predecessor kept under names that begin so.
func (p *process) keptOf(prefix string) map[string]*os.File {
	files := map[string]*os.File{}
	for name, f := range p.kept.Inherited() {
		if strings.HasPrefix(name, prefix) {
			files[name] = f
			delete(p.kept.Inherited(), name)
		}
	}
	return files
}

// InheritedServer is what [server] said to a predecessor, nil without one. bad: what is kept says nothing.
func InheritedServer(kept *handover.Store) (before *tomlfile.Server, bad bool) {
	if kept.Inherited()[keptServer] == nil {
		return nil, false
	}
	var server tomlfile.Server
	if text := kept.InheritedText(keptServer); text == nil || json.Unmarshal(text, &server) != nil {
		return nil, true
	}
	return &server, false
}

// dropUnsound lets go of what was kept as a socket of ours and is none that can be served: a successor would fail
// over it each time. It is opened afresh.
func (p *process) dropUnsound() {
	for _, said := range p.kept.Rejected() {
		p.log.Warn("not taken over: " + said)
	}
	for name, f := range p.kept.Inherited() {
		if name != keptMetrics && !strings.HasPrefix(name, keptListenPrefix) {
			continue
		}
		if err := isListening(f, unix.AF_INET, unix.AF_INET6); err != nil {
			p.log.WithError(err).Warnf("what was kept as %q is opened afresh", name)
			f.Close()
			delete(p.kept.Inherited(), name)
			p.kept.Drop(name)
		}
	}
}

// isListening refuses what is no listening stream socket of these families.
func isListening(f *os.File, families ...int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = raw.Control(func(fd uintptr) {
		option := func(name int) (value int) {
			value, optionErr := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, name)
			inner = errors.Join(inner, optionErr)
			return value
		}
		kind, listens, family := option(unix.SO_TYPE), option(unix.SO_ACCEPTCONN), option(unix.SO_DOMAIN)
		if inner == nil && (kind != unix.SOCK_STREAM || listens != 1 || !slices.Contains(families, family)) {
			inner = errors.New("it does not listen for connections")
		}
	})
	return errors.Join(err, inner)
}

// dropUnknown lets go of what a predecessor kept and nobody has taken.
func (p *process) dropUnknown() {
	for name, f := range p.kept.Inherited() {
		f.Close()
		p.kept.Drop(name)
		delete(p.kept.Inherited(), name)
	}
}

func (p *process) keepServer() error {
	text, err := json.Marshal(p.settings.server)
	if err != nil {
		return err
	}
	return p.kept.KeepText(keptServer, text)
}

// forget has a successor not get what is closed at an orderly end.
func (p *process) forget(name string) {
	if !p.successor {
		p.kept.Drop(name)
	}
}

func (p *process) forgetListeners() {
	if !p.successor {
		p.http.dropAll()
		os.Remove(ListenFile(p.settings.RuntimeDir))
	}
}

// sockets are those that a socket unit hands over. What is none, and may come from a predecessor by way of systemd's
// file descriptor store, is left out.
func (p *process) sockets(others map[string][]*os.File) (listeners []net.Listener) {
	for _, name := range slices.Sorted(maps.Keys(others)) {
		for _, f := range others[name] {
			err := isListening(f, unix.AF_INET, unix.AF_INET6, unix.AF_UNIX)
			if err == nil {
				var l net.Listener
				if l, err = net.FileListener(f); err == nil {
					listeners = append(listeners, l)
				}
			}
			f.Close()
			if err != nil {
				p.log.WithError(err).Warnf("what is handed over as %q is not listened on", name)
			}
		}
	}
	return listeners
}

// heed does what a signal asks for. It reports whether the daemon ends for a successor.
func (p *process) heed(ctx context.Context, sig os.Signal) bool {
	switch sig {
	case syscall.SIGHUP:
		p.reload(ctx, true)
	case syscall.SIGUSR1:
		if p.kept.Durable() {
			return true
		}
		p.log.Warn("SIGUSR1 asks to hand over to another process, but nobody keeps anything for it: there is no keeper (--keep) and no file descriptor store")
	case syscall.SIGUSR2:
		program, err := handover.OwnProgram()
		if err == nil {
			by := handover.UnknownUser
			if isRoot() {
				by = 0 // nobody else may send root a signal
			}
			p.next, err = p.tryProgram(ctx, program, by)
		}
		if err != nil {
			p.log.WithError(err).Error("not upgraded")
			return false
		}
		return true
	}
	return false
}

// An upgrade is somebody's wish to have another program take our place.
type upgrade struct {
	program string
	by      uint32 // the user whose wish it is
	done    chan error
}

// upgradeTo has the loop try a program and, if that is good, end for it.
func (p *process) upgradeTo(ctx context.Context, program string, by uint32) error {
	if p.within != nil {
		return errors.New("imdsfs run ends with its command, and goes on with no other program")
	}
	u := upgrade{program, by, make(chan error, 1)}
	select {
	case p.upgrades <- u:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-u.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// handOver has the deferred ends of run leave everything to a successor.
func (p *process) handOver() error {
	p.log.WithField("kept-by", p.kept.String()).Info("handing over")
	p.successor = true
	fault.At("handing over")
	return nil
}

// handOverMount is the last to be handed over: from now on who reads the mount waits.
func (p *process) handOverMount() error {
	lingering, err := p.mount.HandOver(p.kept)
	if err != nil {
		return fmt.Errorf("hand the mount over: %w", err)
	}
	handover.LeaveChild(lingering)
	fault.At("handed over")
	return nil
}

// become has a program take the place of this one. If it cannot, this one begins anew.
func (p *process) become(next *handover.Candidate) error {
	err := p.kept.Become(next)
	p.log.WithError(err).Error("not upgraded")
	return p.kept.Restart()
}

// tryProgram tries another program as a start of it would. by is the user who names it.
func (p *process) tryProgram(ctx context.Context, path string, by uint32) (*handover.Candidate, error) {
	return handover.Try(ctx, path, handover.Trial{By: by, Args: os.Args[1:], Config: p.settings.File})
}

// startWatchdog tells systemd or the keeper, if they want to hear it, that the daemon is well: the kernel gets
// answers, and changes reach it.
func (p *process) startWatchdog(ctx context.Context, running *sync.WaitGroup) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return
	}
	running.Go(func() {
		ticker := time.NewTicker(limit / 4)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if err := p.check(); err != nil {
				p.log.WithError(err).Error("the mount is not well")
				continue
			}
			p.notify(daemon.SdNotifyWatchdog)
		}
	})
}

func (p *process) check() error {
	if p.mount == nil {
		return nil
	}
	return p.mount.Check()
}
