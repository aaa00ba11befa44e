// Package host describes the machine that it runs on as an instance, so that the daemon works without a file.
//
//	/sys, /proc, /etc/machine-id ──▶ identity.go ─┐
//	network interfaces ─────────────▶ network.go ─┴─▶ Source.Load ──▶ build.Fragment
//
// It states little and leaves the rest to derivation (the region follows from the zone, hostname from local-hostname). It
// reads everything through Options.Root and Options.Interfaces, so that a test can describe any machine. It writes nothing
// and sends nothing to the network.
//
//	instance-id     DMI asset tag of EC2 Nitro; else from the DMI or Xen UUID of EC2; else from
//	                /etc/machine-id, which does not leak through it
//	instance-type   DMI product name, as a token; else "imdsfs.host"
//	local-hostname  the kernel's, if one was set
//	mac, addresses  of real interfaces, see network.go
//	zone            local-1a
//	launch-time     when the machine was booted
package host

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// Zone is the availability zone of a machine if no other source states one.
const Zone = "local-1a"

// Limits in bytes on what is read. An attribute in /sys is at most a page; /proc/stat grows with processors and interrupts.
const (
	maxAttribute = 4 << 10
	maxStat      = 4 << 20
)

// Options say which machine to describe. The zero value is the machine that we run on.
type Options struct {
	// Root is the directory that holds etc, proc and sys; "" is "/".
	Root string
	// Interfaces lists the network interfaces; nil: ask the kernel.
	Interfaces func() ([]Interface, error)
}

// A Source is the host as a source of metadata. It is safe for concurrent use.
type Source struct {
	opts Options

	mu   sync.Mutex
	boot time.Time // as first read
}

func init() {
	source.Register(source.Kind{Name: "host", Order: 1, New: func(source.Setup) source.Source { return New(Options{}) }})
}

// New returns the source. It reads nothing before Load.
func New(opts Options) *Source {
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Interfaces == nil {
		opts.Interfaces = systemInterfaces
	}
	return &Source{opts: opts}
}

// Name is "host".
func (s *Source) Name() string { return "host" }

// Load reads the machine again, except the time of boot. It fails if it finds no instance id, cannot read the time of boot,
// or cannot list the interfaces. It leaves out anything else that is missing.
func (s *Source) Load(ctx context.Context) (*build.Fragment, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	boot, err := s.bootTime()
	if err != nil {
		return nil, err
	}
	f := &fragment{boot: boot, leaves: map[string]tree.Value{}}
	if err := s.loadIdentity(f); err != nil {
		return nil, err
	}
	if err := s.loadNetwork(f); err != nil {
		return nil, err
	}
	f.set("placement/availability-zone", Zone, tree.Origin{Kind: tree.Default, Place: "zone of a host"})

	instance := map[string]tree.Value{
		"launch-time": f.value(boot.Format(time.RFC3339), stated("/proc/stat")),
	}
	if arch := architecture(runtime.GOARCH); arch != "" {
		instance["architecture"] = f.value(arch, stated("the machine's processor"))
	}
	return &build.Fragment{Leaves: f.leaves, Instance: instance, Warnings: f.warnings}, nil
}

// bootTime returns the time of boot, which it reads once. The kernel computes it from the wall clock, so a step of that
// clock would change launch-time, and with it the identity document, at the next reload.
func (s *Source) bootTime() (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.boot.IsZero() {
		return s.boot, nil
	}
	const path = "/proc/stat"
	stat, err := s.read(path, maxStat)
	if err != nil {
		return time.Time{}, fmt.Errorf("boot time: %w; mount /proc, or give an instance file", err)
	}
	for line := range strings.Lines(stat) {
		if text, ok := strings.CutPrefix(line, "btime "); ok {
			sec, err := strconv.ParseUint(strings.TrimSpace(text), 10, 33)
			if err != nil {
				return time.Time{}, fmt.Errorf("boot time: %s: btime is not a number of seconds; give an instance file", path)
			}
			s.boot = time.Unix(int64(sec), 0).UTC()
			return s.boot, nil
		}
	}
	return time.Time{}, fmt.Errorf("boot time: %s: no line btime; give an instance file", path)
}

// architecture returns EC2's name for a GOARCH, "" if EC2 has none.
func architecture(goarch string) string {
	switch goarch {
	case "amd64":
		return "x86_64"
	case "arm64":
		return "arm64"
	case "386":
		return "i386"
	}
	return ""
}

// read returns the text of the file at an absolute path below Root. A longer file is an error.
func (s *Source) read(path string, limit int64) (string, error) {
	f, err := os.Open(filepath.Join(s.opts.Root, path))
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return "", err
	}
	if int64(len(b)) > limit {
		return "", fmt.Errorf("%s: longer than %d bytes", path, limit)
	}
	return string(b), nil
}

// A fragment collects what Load finds.
type fragment struct {
	boot     time.Time // mtime of every value
	leaves   map[string]tree.Value
	warnings problem.Faults
}

func (f *fragment) value(text string, origin tree.Origin) tree.Value {
	return tree.Value{Bytes: []byte(text), Mtime: f.boot, Origin: origin}
}

// set states the leaf at a path relative to meta-data.
func (f *fragment) set(path, text string, origin tree.Origin) {
	f.leaves["meta-data/"+path] = f.value(text, origin)
}

func stated(place string) tree.Origin {
	return tree.Origin{Kind: tree.Stated, Place: place}
}
