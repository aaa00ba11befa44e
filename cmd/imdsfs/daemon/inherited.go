package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/source/tomlfile"
)

// Names under which a daemon keeps something for a successor, besides the sockets of HTTP (listeners.go) and what package fs
// keeps. Do not change the names and the contents: a daemon of another version has written them, or will read them.
const (
	keptLock    = "lock"
	keptMetrics = "metrics"
	keptServer  = "server" // what [server] says, as JSON
)

// InheritedServer returns what [server] said to a predecessor, nil without one. bad reports that something else is kept in its
// place.
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

// sortOutInherited drops what is kept as a listening socket and is not one. The daemon then opens it anew. Otherwise every
// successor would fail.
func (d *Daemon) sortOutInherited(context.Context) (part, error) {
	handover.ReapLeftChild()
	for _, rejected := range d.Handover.Rejected() {
		d.Log.Warn("not taken over: " + rejected)
	}
	for name, f := range d.Handover.Inherited() {
		if name != keptMetrics && !strings.HasPrefix(name, keptListenPrefix) {
			continue
		}
		if err := isListening(f, unix.AF_INET, unix.AF_INET6); err != nil {
			d.Log.WithError(err).Warnf("what was kept as %q is opened afresh", name)
			d.Handover.Discard(name)
		}
	}
	return part{}, nil
}

// isListening returns an error unless f is a listening stream socket of one of these families.
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

// dropUnknown drops what a predecessor kept and this version does not know.
func (d *Daemon) dropUnknown(context.Context) (part, error) {
	for name := range d.Handover.Inherited() {
		d.Handover.Discard(name)
	}
	return part{}, nil
}

// keepServer keeps what [server] says for a successor that finds the file faulty.
func (d *Daemon) keepServer(context.Context) (part, error) {
	text, err := json.Marshal(d.Settings.server)
	if err == nil {
		err = d.Handover.KeepText(keptServer, text)
	}
	if err != nil {
		return part{}, err
	}
	return part{Close: func() { d.Handover.Drop(keptServer) }, HandOver: stays}, nil
}

// handedOver returns the sockets of a socket unit. It closes other descriptors, which may come from a predecessor by way of
// systemd's file descriptor store.
func (d *Daemon) handedOver() (listeners []net.Listener) {
	for _, name := range slices.Sorted(maps.Keys(d.Sockets)) {
		for _, f := range d.Sockets[name] {
			err := isListening(f, unix.AF_INET, unix.AF_INET6, unix.AF_UNIX)
			if err == nil {
				var l net.Listener
				if l, err = net.FileListener(f); err == nil {
					listeners = append(listeners, l)
				}
			}
			f.Close()
			if err != nil {
				d.Log.WithError(err).Warnf("what is handed over as %q is not listened on", name)
			}
		}
	}
	return listeners
}
