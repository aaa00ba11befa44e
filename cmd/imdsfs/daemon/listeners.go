package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/handover"
	"github.com/imdsfs/imdsfs/imds/edge"
	"github.com/imdsfs/imdsfs/source/atomicfile"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
)

// The addresses of the real service, with its port.
var (
	LinkLocalIPv4 = netip.AddrPortFrom(ec2.ServiceIPv4, 80).String()
	LinkLocalIPv6 = netip.AddrPortFrom(ec2.ServiceIPv6, 80).String()
)

// listeners are the sockets of the HTTP door. A successor gets them. So no client is refused while no daemon runs: connections
// wait in the queue.
type listeners struct {
	server     *edge.Server
	store      *handover.Store
	runtimeDir string
	linkLocal  bool // link-local is stated: http-protocol-ipv6 opens and closes its IPv6 address

	// ended receives the error of a listener that accepts no longer.
	ended   chan error
	running sync.WaitGroup

	mu      sync.Mutex
	serving context.Context // nil before serve
	open    []*listener
}

type listener struct {
	net.Listener
	kept string             // the name under which it is kept; "": a socket unit handed it over
	end  context.CancelFunc // nil before it is served
}

// listenAll opens all addresses, or none, beside the sockets that a socket unit hands over. It takes over the sockets of a
// predecessor. It accepts no connection before serve. The error says which address cannot be listened on.
func (d *Daemon) listenAll(ctx context.Context, handedOver []net.Listener) (*listeners, error) {
	addresses := d.Settings.listenBeside(handedOver)
	l := &listeners{
		server: d.ports.edge, store: d.Handover, runtimeDir: d.Settings.RuntimeDir, ended: make(chan error, 1), linkLocal: slices.Contains(addresses, LinkLocal),
	}
	for _, socket := range handedOver {
		l.open = append(l.open, &listener{Listener: socket})
	}
	for _, address := range addresses {
		for _, a := range expand(address, &d.Snapshot().Options().Options) {
			if err := l.listen(ctx, a); err != nil {
				l.close()
				return nil, listenProblem(listenHint(address, err), err)
			}
		}
	}
	l.dropUnwanted()
	return l, nil
}

func expand(address string, opts *ec2.Options) []string {
	switch {
	case address == None:
		return nil
	case address != LinkLocal:
		return []string{address}
	case opts.HTTPProtocolIPv6:
		return []string{LinkLocalIPv4, LinkLocalIPv6}
	}
	return []string{LinkLocalIPv4}
}

func (l *listeners) listen(ctx context.Context, address string) error {
	kept := keptListener(address)
	socket, err := l.inherit(kept)
	if err != nil || socket == nil {
		if socket, err = edge.Listen(ctx, address); err != nil {
			return err
		}
		if err := keepSocket(l.store, kept, socket); err != nil {
			socket.Close()
			return err
		}
	}
	l.open = append(l.open, &listener{Listener: socket, kept: kept})
	return nil
}

const keptListenPrefix = "listen-"

// keptListener returns the name under which the socket of an address is kept.
func keptListener(address string) string {
	return keptListenPrefix + strings.NewReplacer(":", "_", "=", "_", " ", "_").Replace(address)
}

// inheritsListeners reports whether a predecessor kept the sockets of all these addresses. Then nobody else listens there, and a
// probe would wait for our own answer.
func (d *Daemon) inheritsListeners(addresses []string) bool {
	return !slices.ContainsFunc(addresses, func(a string) bool { return d.Handover.Inherited()[keptListener(a)] == nil })
}

// inherit returns the socket that a predecessor kept under this name, nil if there is none.
func (l *listeners) inherit(kept string) (net.Listener, error) {
	f := l.store.Take(kept)
	if f == nil {
		return nil, nil
	}
	defer f.Close()
	return net.FileListener(f)
}

// dropUnwanted closes the other sockets of a predecessor.
func (l *listeners) dropUnwanted() {
	for kept := range l.store.Inherited() {
		if strings.HasPrefix(kept, keptListenPrefix) {
			l.store.Discard(kept)
		}
	}
}

// keepSocket keeps a socket for a successor.
func keepSocket(store *handover.Store, kept string, socket net.Listener) error {
	filer, ok := socket.(interface{ File() (*os.File, error) })
	if !ok {
		return fmt.Errorf("keep %s: not a socket", socket.Addr())
	}
	f, err := filer.File()
	if err != nil {
		return fmt.Errorf("keep %s: %w", socket.Addr(), err)
	}
	defer f.Close()
	return store.Keep(kept, f)
}

// serve accepts connections from now on, until ctx ends; wait waits for that.
func (l *listeners) serve(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.serving = ctx
	for _, o := range l.open {
		l.start(o)
	}
}

func (l *listeners) start(o *listener) {
	ctx, cancel := context.WithCancel(l.serving)
	o.end = cancel
	l.running.Go(func() {
		if err := l.server.Serve(ctx, o.Listener); err != nil {
			select {
			case l.ended <- err:
			default: // one is enough to end the daemon
			}
		}
	})
}

func (l *listeners) wait() { l.running.Wait() }

// followIPv6 opens or closes the IPv6 address of link-local, and reports whether it did.
func (l *listeners) followIPv6(on bool) (changed bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.linkLocal || l.serving == nil {
		return false, nil
	}
	i := slices.IndexFunc(l.open, func(o *listener) bool { return o.Addr().String() == LinkLocalIPv6 })
	switch {
	case on && i < 0:
		if err := l.listen(l.serving, LinkLocalIPv6); err != nil {
			return false, err
		}
		l.start(l.open[len(l.open)-1])
		return true, nil
	case !on && i >= 0:
		l.drop(l.open[i])
		l.open[i].end()
		l.open = slices.Delete(l.open, i, i+1)
		return true, nil
	}
	return false, nil
}

func (l *listeners) drop(o *listener) {
	if o.kept != "" {
		l.store.Drop(o.kept)
	}
}

// dropAll stops keeping the sockets for a successor.
func (l *listeners) dropAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range l.open {
		l.drop(o)
	}
}

// close closes the listeners that do not accept yet.
func (l *listeners) close() {
	for _, o := range l.open {
		if o.end == nil {
			o.Close()
		}
	}
}

func (l *listeners) addresses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	addresses := make([]string, len(l.open))
	for i, o := range l.open {
		addresses[i] = o.Addr().String()
	}
	return addresses
}

// note writes the addresses down, one on a line, for imdsfs get. The daemon runs even if that fails.
func (l *listeners) note(log *logrus.Logger) {
	if err := l.write(); err != nil {
		log.WithError(err).Warn("the addresses are not noted: make room there; imdsfs get needs --endpoint until the next start")
	}
}

// write does not write what is there already, so that a successor can start on a full disk.
func (l *listeners) write() error {
	path, text := ListenFile(l.runtimeDir), []byte(strings.Join(append(l.addresses(), ""), "\n"))
	if was, err := atomicfile.Read(path, MaxListenFile); err == nil && bytes.Equal(was, text) {
		return nil
	}
	if err := atomicfile.Write(path, text, 0o644); err != nil {
		os.Remove(path) // no address is better than a wrong one
		return err
	}
	return nil
}

// listenProblem marks an error of an address that can never be listened on as invalid, and any other as a failure that may pass.
func listenProblem(hint string, err error) error {
	var malformed *net.AddrError
	var unknown *net.DNSError
	if errors.As(err, &malformed) || errors.As(err, &unknown) && !unknown.IsTemporary || errors.Is(err, syscall.EACCES) {
		return problem.Invalid(hint, err)
	}
	return problem.Failed(hint, err)
}

func listenHint(address string, err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "something else answers there; stop it, or choose another address with --listen"
	case errors.Is(err, syscall.EADDRNOTAVAIL) && address == LinkLocal:
		return "give it --add-addresses, or put them on an interface first: ip address add " + ec2.ServiceIPv4.String() + "/32 dev lo"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "the address belongs to no interface of this machine"
	case errors.Is(err, syscall.EACCES):
		return "ports below 1024 need root"
	}
	return "give --listen an address and a port, such as 127.0.0.1:1338"
}

// MaxListenFile limits how much of a [ListenFile] is read.
const MaxListenFile = 4 << 10 // bytes

// ListenFile returns the path of the file with the addresses that the daemon listens on, one on a line, for imdsfs get.
func ListenFile(runtimeDir string) string { return filepath.Join(runtimeDir, "listen") }
