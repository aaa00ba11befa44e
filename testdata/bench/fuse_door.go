package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tomlfile"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	hotRounds = 1000
	// manyValues change at once in one publish.
	manyValues     = 1000
	maxPublishOne  = 2 * time.Millisecond
	maxPublishMany = 200 * time.Millisecond
)

// A door is a mount that this process serves. Only here can its requests be counted one by one and a publish be timed
// separately: from outside a request is one read(2) of the daemon among others. Read this mount in another process or
// through the runtime's system calls, never with a [client].
type door struct {
	*fs.Door
	fragment *build.Fragment // the content of the instance file
	current  *build.Snapshot
	serial   int // of the last publish
}

func (e *env) mountHere(ctx context.Context, name, file string) (*door, error) {
	fragment, err := tomlfile.New(file, nil).Load(ctx)
	if err != nil {
		return nil, err
	}
	d := &door{fragment: fragment}
	if d.current, err = d.snapshot(nil); err != nil {
		return nil, err
	}
	runtimeDir := filepath.Join(e.dir, name+".run")
	if err := os.Mkdir(runtimeDir, 0o755); err != nil {
		return nil, err
	}
	d.Door, err = fs.Mount(fs.Config{
		Dir: filepath.Join(e.dir, name), RuntimeDir: runtimeDir,
		Warn: func(text string) { fmt.Fprintln(os.Stderr, "bench:", text) },
	}, d.current)
	return d, err
}

// snapshot is the tree with other values in it.
func (d *door) snapshot(leaves map[string]tree.Value) (*build.Snapshot, error) {
	env := build.Env{Now: time.Now(), UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	return build.Build(d.current, env, d.fragment, &build.Fragment{Leaves: leaves})
}

// countRequests does common operations a thousand times.
func (e *env) countRequests(ctx context.Context, file string, c *checks) error {
	d, err := e.mountHere(ctx, "counted-mount", file)
	if err != nil {
		return err
	}
	defer d.Unmount()
	latest := filepath.Join(d.Dir(), "latest")
	rounds := func(n int) error {
		const script = `i=0; while [ $i -lt "$0" ]; do cat "$1" >/dev/null && ls -l "$2" >/dev/null && ! stat "$3" >/dev/null 2>&1 || exit; i=$((i+1)); done`
		err := exec.CommandContext(ctx, "/bin/sh", "-c", script, fmt.Sprint(n),
			filepath.Join(latest, aFile), filepath.Join(latest, tagsDir), filepath.Join(latest, missing)).Run()
		if err != nil {
			return fmt.Errorf("cat, ls -l and stat: %w", err)
		}
		return nil
	}
	const portion = 50 // few enough to fit between two drops of the caches
	requests := map[string]uint64{}
	for done := 0; done < hotRounds; done += portion {
		var before, after map[string]uint64
		err := undisturbed(func() error {
			if err := rounds(2); err != nil { // to fill the caches
				return err
			}
			before = d.Requests()
			err := rounds(portion)
			after = d.Requests()
			return err
		})
		if err != nil {
			return err
		}
		for op := range after {
			requests[op] += after[op] - before[op]
		}
	}
	what := fmt.Sprintf("FUSE requests for %d hot rounds of `cat`, `ls -l` of %d files and a failing `stat`", hotRounds, tagCount)
	var total uint64
	for _, op := range slices.Sorted(maps.Keys(requests)) {
		if n := requests[op]; n > 0 {
			what += fmt.Sprintf(", %s %d", op, n)
			total += n
		}
	}
	c.exactly(what, total, 0)
	return nil
}

// timePublish times only Publish, for values that the kernel has in its caches.
func (e *env) timePublish(ctx context.Context, c *checks) error {
	file, err := e.instanceFile("published", manyInstance(manyTable, manyValues, 20))
	if err != nil {
		return err
	}
	d, err := e.mountHere(ctx, "published-mount", file)
	if err != nil {
		return err
	}
	defer d.Unmount()
	latest := []string{tree.Latest}
	all := slices.Collect(maps.Keys(maps.Collect(d.current.Root().Children())))
	for _, p := range []struct {
		what     string
		count    int
		versions []string // in which the values were read before
		rounds   int
		max      time.Duration
	}{
		{"publish of 1 value", 1, latest, e.rounds, maxPublishOne},
		{fmt.Sprintf("publish of %d values", manyValues), manyValues, latest, e.rounds, maxPublishMany},
		{fmt.Sprintf("publish of %d values that were read in all %d versions", manyValues, len(all)), manyValues, all, 3, 0},
	} {
		took, err := d.publishRounds(ctx, p.count, p.versions, p.rounds)
		if err != nil {
			return fmt.Errorf("%s: %w", p.what, err)
		}
		if p.max > 0 {
			c.within(p.what, took, p.max)
		} else {
			c.report(p.what, pretty(took))
		}
	}
	return nil
}

// publishRounds returns the median of rounds in which count values, read before in some versions, change.
func (d *door) publishRounds(ctx context.Context, count int, versions []string, rounds int) (time.Duration, error) {
	var took []time.Duration
	for range rounds {
		var once time.Duration
		err := undisturbed(func() (err error) { once, err = d.publishOnce(count, versions); return err })
		if err := errors.Join(ctx.Err(), err); err != nil {
			return 0, err
		}
		took = append(took, once)
	}
	return median(took), nil
}

func (d *door) publishOnce(count int, versions []string) (time.Duration, error) {
	d.serial++
	leaves := map[string]tree.Value{}
	for i := range count {
		text := fmt.Sprintf("value %d of round %d", i, d.serial)
		leaves[fmt.Sprintf(manyDir+"/value-%05d", i)] = tree.Value{Bytes: []byte(text), Mtime: time.Now(), Origin: tree.Origin{Place: "bench"}}
	}
	next, err := d.snapshot(leaves)
	if err != nil {
		return 0, err
	}
	if _, err := d.readAll(leaves, versions); err != nil { // so that the kernel has something to drop
		return 0, err
	}
	begin := time.Now()
	d.Publish(next)
	took := time.Since(begin)
	d.current = next
	stale, err := d.readAll(leaves, versions)
	if err == nil && stale > 0 {
		err = fmt.Errorf("%d old values after the publish", stale)
	}
	return took, err
}

// readAll reads files and counts those with a wrong content.
func (d *door) readAll(leaves map[string]tree.Value, versions []string) (different int, err error) {
	buf := make([]byte, 4096)
	for _, version := range versions {
		for path, want := range leaves {
			got, err := readHere(filepath.Join(d.Dir(), version, path), buf)
			if err != nil {
				return 0, fmt.Errorf("read %s/%s: %w", version, path, err)
			}
			if string(got) != string(want.Bytes) {
				different++
			}
		}
	}
	return different, nil
}

// readHere reads a short file without the runtime's poller, which would call the mount from a thread that may have to
// answer.
func readHere(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	return buf[:max(n, 0)], err
}
