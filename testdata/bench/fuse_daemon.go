package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const (
	maxReload = 20 * time.Millisecond
	maxReady  = 50 * time.Millisecond
	maxListed = 200 * time.Millisecond
	// betweenReloads lets a reload finish: a change before its end is read without debounce.
	betweenReloads = 50 * time.Millisecond
	// maxRSS bounds a daemon with a tree of the usual size, in MiB.
	maxRSS = 25
)

// timeReload measures from the rename of the instance file until the mount and HTTP show a new value.
func (e *env) timeReload(ctx context.Context, c *checks) error {
	file, err := e.instanceFile("reloaded", usualInstance("ami-00000000000000000"))
	if err != nil {
		return err
	}
	d, err := e.serve("reloaded-mount", file)
	if err != nil {
		return err
	}
	defer d.stop()
	var mount, both []time.Duration
	for round := range e.rounds {
		ami := fmt.Sprintf("ami-%017x", round+1)
		text := usualInstance(ami)
		if err := d.waitFor(ctx, fmt.Sprintf("ami-%017x", round), time.Now()).err; err != nil {
			return err
		}
		time.Sleep(betweenReloads)
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			return err
		}
		begin := time.Now()
		if err := os.Rename(file+".new", file); err != nil {
			return err
		}
		shown := d.waitFor(ctx, ami, begin)
		if shown.err != nil {
			return shown.err
		}
		mount, both = append(mount, shown.mount), append(both, shown.both)
	}
	c.report("from rename of the instance file to the new value on the mount, debounce included", pretty(median(mount)))
	c.within("from rename of the instance file to the new value on both doors, debounce included", median(both), maxReload)
	c.report("resident memory of that daemon afterwards", fmt.Sprintf("%.1f MiB", d.mib("VmRSS")))
	return nil
}

// shown is how long it took until the mount and HTTP showed a value.
type shown struct {
	mount, both time.Duration
	err         error
}

func (d *daemon) waitFor(ctx context.Context, ami string, begin time.Time) (s shown) {
	file := filepath.Join(d.mount, "latest", amiID)
	buf := make([]byte, 4096)
	if s.mount, s.err = poll(ctx, begin, ami, func() (string, error) { b, err := readHere(file, buf); return string(b), err }); s.err != nil {
		return s
	}
	s.both, s.err = poll(ctx, begin, ami, func() (string, error) { return d.get(amiID) })
	return s
}

// poll asks again and again, but leaves the processor to the daemon in between.
func poll(ctx context.Context, begin time.Time, want string, ask func() (string, error)) (time.Duration, error) {
	for {
		got, err := ask()
		spent := time.Since(begin)
		switch {
		case err != nil:
			return 0, err
		case got == want:
			return spent, nil
		case spent > 20*time.Second:
			return 0, fmt.Errorf("%q does not show, but %q", want, got)
		case ctx.Err() != nil:
			return 0, ctx.Err()
		}
		time.Sleep(100 * time.Microsecond)
	}
}

// get sends a request over HTTP, on a kept connection.
func (d *daemon) get(path string) (string, error) {
	resp, err := http.Get("http://" + d.address + "/latest/" + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, fmt.Errorf("GET %s: %s", path, resp.Status))
	}
	return string(body), err
}

// timeStart measures from exec until the mount and HTTP answer.
func (e *env) timeStart(ctx context.Context, file string, c *checks) error {
	var ready []time.Duration
	var rss []float64
	for round := range e.rounds {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := e.serve(fmt.Sprintf("started-%d-mount", round), file)
		if err != nil {
			return err
		}
		ready, rss = append(ready, d.ready), append(rss, d.mib("VmRSS"))
		d.stop()
	}
	c.within("from exec to both doors ready", median(ready), maxReady)
	c.atMost("resident memory when ready", median(rss), maxRSS, " MiB")
	return nil
}

// manyEntries lists a directory that is larger than that of any instance.
func (e *env) manyEntries(ctx context.Context, c *checks) error {
	const entries = 10_000
	file, err := e.instanceFile("entries", manyInstance(tagsTable, entries, 20))
	if err != nil {
		return err
	}
	d, err := e.serve("entries-mount", file)
	if err != nil {
		return err
	}
	defer d.stop()
	what := func(text string) string { return fmt.Sprintf("directory of %d entries: %s", entries, text) }
	c.report(what("from exec to ready"), pretty(d.ready))
	c.report(what("resident memory when ready"), fmt.Sprintf("%.1f MiB", d.mib("VmRSS")))
	// Each version has its own directories, which have not been listed yet.
	dirs, err := filepath.Glob(filepath.Join(d.mount, "*", tagsDir))
	if err != nil || len(dirs) < 3 {
		return fmt.Errorf("%d versions with tags: %w", len(dirs), err)
	}
	var cold, warm []time.Duration
	for _, dir := range dirs[1:] {
		first, err1 := ls(ctx, entries, "-1", dir)
		again, err2 := ls(ctx, entries, "-1", dir)
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		cold, warm = append(cold, first), append(warm, again)
	}
	long, err := ls(ctx, entries+1, "-l", dirs[0]) // with the line "total"
	if err != nil {
		return err
	}
	c.within(what("`ls`, cold"), median(cold), maxListed)
	c.report(what("`ls`, warm"), pretty(median(warm)))
	c.report(what("`ls -l`, cold"), pretty(long))
	c.report(what(fmt.Sprintf("resident memory after `ls` in %d versions", len(dirs))), fmt.Sprintf("%.1f MiB", d.mib("VmRSS")))
	return nil
}

// ls times ls(1), the start of the process included.
func ls(ctx context.Context, lines int, flag, dir string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, "ls", flag, dir)
	begin := time.Now()
	out, err := cmd.Output()
	took := time.Since(begin)
	if err != nil {
		return 0, fmt.Errorf("ls %s %s: %w", flag, dir, err)
	}
	if n := strings.Count(string(out), "\n"); n != lines {
		return 0, fmt.Errorf("ls %s %s prints %d lines, not %d", flag, dir, n, lines)
	}
	return took, nil
}
