package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds of the mount. Ratios are to tmpfs.
const (
	maxOpenRead = 1.6
	maxStat     = 1.25
	maxReaddir  = 1.0
	maxFindCat  = 1.25
)

// A target is a directory that holds the tree.
type target struct {
	name, root string
	// For the operations, as the kernel takes them.
	tree, file, other, missing, dir *byte
	fd                              int // of file
}

func newTarget(c *client, name, root string) (*target, error) {
	at := func(path string) *byte { return cString(filepath.Join(root, path)) }
	t := &target{name: name, root: root, tree: at(""), file: at(aFile), other: at(another), missing: at(missing), dir: at(tagsDir)}
	var err error
	t.fd, err = c.open(cwd, t.file, unix.O_RDONLY)
	return t, err
}

// An operation is measured on every target.
type operation struct {
	name string
	max  float64 // ratio to tmpfs; 0: no promise
	// batch is how often do runs between two looks at the clock.
	batch int
	do    func(c *client, t *target) error
	// beside, if there is one, runs at the same time in another thread.
	beside func(c *client, t *target) error
}

var operations = []operation{
	{name: "open+read+close", max: maxOpenRead, batch: 32, do: readFile},
	{name: "stat", max: maxStat, batch: 32, do: func(c *client, t *target) error { return c.statIs(t.file, 0) }},
	{name: "stat, ENOENT", batch: 32, do: func(c *client, t *target) error { return c.statIs(t.missing, unix.ENOENT) }},
	{name: "readdir of 60", max: maxReaddir, batch: 8, do: func(c *client, t *target) error { _, err := c.list(t.dir); return err }},
	{name: "pread, open fd", batch: 32, do: func(c *client, t *target) error { return c.pread(t.fd) }},
	{name: "walk, read all", batch: 1, do: func(c *client, t *target) error { return c.walk(cwd, t.tree, 0) }},
	{name: "2 readers, 1 file", batch: 32, do: readFile, beside: readFile},
	{name: "2 readers, 2 files", batch: 32, do: readFile, beside: func(c *client, t *target) error { return c.readOnce(t.other) }},
	{name: "`find -type f -print0 \\| xargs -0 cat`", max: maxFindCat, batch: 1, do: findCat},
}

func readFile(c *client, t *target) error { return c.readOnce(t.file) }

func findCat(_ *client, t *target) error {
	return exec.Command("/bin/sh", "-c", `find "$0" -type f -print0 | xargs -0 cat >/dev/null`, t.root).Run()
}

func benchFUSE(ctx context.Context, e *env) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	file, err := e.instanceFile("usual", usualInstance("ami-0abcdef1234567890"))
	if err != nil {
		return "", err
	}
	var table string
	machine, c := describe(), &checks{ci: e.ci}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"compare file systems", func() (err error) { table, err = e.compare(ctx, file, c); return err }},
		{"count requests", func() error { return e.countRequests(ctx, file, c) }},
		{"publish", func() error { return e.timePublish(ctx, c) }},
		{"reload", func() error { return e.timeReload(ctx, c) }},
		{"start", func() error { return e.timeStart(ctx, file, c) }},
		{"10,000 entries", func() error { return e.manyEntries(ctx, c) }},
		{"64 MiB", func() error { return e.largeTree(ctx, c) }},
	} {
		begin := time.Now()
		if err := errors.Join(ctx.Err(), step.do()); err != nil {
			return "", fmt.Errorf("%s: %w", step.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: fuse: %s took %.1f s\n", step.name, time.Since(begin).Seconds())
	}
	return "## The mount\n\n" + machine + "\n\n" + table + "\n" + c.table(), c.err()
}

// compare measures the operations on all targets.
func (e *env) compare(ctx context.Context, file string, c *checks) (string, error) {
	targets, stop, err := e.startTargets(ctx, file)
	defer stop()
	if err != nil {
		return "", err
	}
	times, err := e.visit(ctx, targets)
	if err != nil {
		return "", err
	}
	const base = 1 // tmpfs
	var b strings.Builder
	b.WriteString("| |")
	for _, t := range targets {
		fmt.Fprintf(&b, " %s |", t.name)
	}
	b.WriteString("\n|---|" + strings.Repeat("---:|", len(targets)) + "\n")
	for i, op := range operations {
		fmt.Fprintf(&b, "| %s |", op.name)
		medians := make([]float64, len(targets))
		for k := range targets {
			medians[k] = median(times[i][k])
		}
		for _, m := range medians {
			fmt.Fprintf(&b, " %s (%.2f×) |", pretty(time.Duration(m)), m/medians[base])
		}
		b.WriteString("\n")
		if op.max > 0 {
			c.atMost(op.name+", ratio to tmpfs", medians[0]/medians[base], op.max, "×")
		}
	}
	return b.String(), nil
}

// startTargets returns the mount, tmpfs, the disk and the ordinary mount, all with the same tree.
func (e *env) startTargets(ctx context.Context, file string) (targets []*target, stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, t := range targets {
			unix.Close(t.fd)
		}
		for i := range stops {
			stops[len(stops)-1-i]()
		}
	}
	c := newClient()
	add := func(name, root string) error {
		t, err := newTarget(c, name, root)
		if err == nil {
			targets = append(targets, t)
		}
		return err
	}

	d, err := e.serve("imdsfs-mount", file)
	if err != nil {
		return targets, stop, err
	}
	stops = append(stops, d.stop)
	original := filepath.Join(d.mount, "latest")
	if err := add("imdsfs", original); err != nil {
		return targets, stop, err
	}

	tmpfs := filepath.Join(e.dir, "tmpfs-mount")
	if err := os.Mkdir(tmpfs, 0o755); err != nil {
		return targets, stop, err
	}
	if err := unix.Mount("imdsfs-bench", tmpfs, "tmpfs", 0, "mode=755"); err != nil {
		return targets, stop, fmt.Errorf("mount tmpfs: %w", err)
	}
	stops = append(stops, func() { unix.Unmount(tmpfs, unix.MNT_DETACH) })
	disk := filepath.Join(e.dir, "on-the-disk")
	for _, copied := range []struct{ name, dir string }{{"tmpfs", tmpfs}, {fileSystem(e.dir), disk}} {
		root := filepath.Join(copied.dir, "latest")
		if err := os.CopyFS(root, os.DirFS(original)); err != nil {
			return targets, stop, err
		}
		if err := add(copied.name, root); err != nil {
			return targets, stop, err
		}
	}

	ordinary, err := e.build(ctx, "ordinary", "testdata/bench/ordinary")
	if err != nil {
		return targets, stop, err
	}
	mount := filepath.Join(e.dir, "gofuse-mount")
	if err := os.Mkdir(mount, 0o755); err != nil {
		return targets, stop, err
	}
	s, err := start("ready", mount, exec.Command(ordinary, disk, mount))
	if err != nil {
		return targets, stop, err
	}
	stops = append(stops, s.stop)
	if err := add("go-fuse's `fs`, defaults", filepath.Join(mount, "latest")); err != nil {
		return targets, stop, err
	}
	return targets, stop, sameTree(targets)
}

// sameTree makes sure that all targets give the client the same work.
func sameTree(targets []*target) error {
	var first *client
	for _, t := range targets {
		c := newClient()
		if err := c.walk(cwd, t.tree, 0); err != nil {
			return fmt.Errorf("walk %s: %w", t.root, err)
		}
		entries, err := c.list(t.dir)
		switch {
		case err != nil:
			return fmt.Errorf("list %s: %w", t.root, err)
		case entries != tagCount:
			return fmt.Errorf("%s lists %d entries", t.root, entries)
		case first == nil:
			first = c
		case c.files != first.files || c.bytes != first.bytes:
			return fmt.Errorf("%s holds %d files with %d bytes, not %d with %d", t.root, c.files, c.bytes, first.files, first.bytes)
		}
	}
	if first.files < 150 || first.files > 210 {
		return fmt.Errorf("the tree has %d files, not about 180", first.files)
	}
	return nil
}

// visit returns nanoseconds per call: of each operation, of each target, of each round.
func (e *env) visit(ctx context.Context, targets []*target) ([][][]float64, error) {
	slice := 25 * time.Millisecond
	if e.ci {
		slice = 10 * time.Millisecond
	}
	times := make([][][]float64, len(operations))
	for i := range times {
		times[i] = make([][]float64, len(targets))
	}
	clients := [2]*client{newClient(), newClient()}
	for round := range e.rounds {
		for i, op := range operations {
			for k := range targets {
				at := (k + round) % len(targets)
				t := targets[at]
				var ns float64
				err := undisturbed(func() (err error) { ns, err = op.measure(clients, t, slice); return err })
				if err := errors.Join(ctx.Err(), err); err != nil {
					return nil, fmt.Errorf("%s on %s: %w", op.name, t.name, err)
				}
				times[i][at] = append(times[i][at], ns)
			}
		}
	}
	return times, nil
}

// measure runs an operation for a while, after two calls to warm up.
func (op *operation) measure(clients [2]*client, t *target, slice time.Duration) (ns float64, err error) {
	for range 2 {
		if err := op.do(clients[0], t); err != nil {
			return 0, err
		}
	}
	if op.beside == nil {
		return loop(clients[0], t, op.do, op.batch, slice)
	}
	var both sync.WaitGroup
	var results [2]float64
	var errs [2]error
	for i, do := range []func(*client, *target) error{op.do, op.beside} {
		both.Go(func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			results[i], errs[i] = loop(clients[i], t, do, op.batch, slice)
		})
	}
	both.Wait()
	return (results[0] + results[1]) / 2, errors.Join(errs[0], errs[1])
}

func loop(c *client, t *target, do func(*client, *target) error, batch int, slice time.Duration) (ns float64, err error) {
	calls := 0
	begin := time.Now()
	for {
		for range batch {
			if err := do(c, t); err != nil {
				return math.NaN(), err
			}
		}
		calls += batch
		if spent := time.Since(begin); spent >= slice {
			return float64(spent.Nanoseconds()) / float64(calls), nil
		}
	}
}
