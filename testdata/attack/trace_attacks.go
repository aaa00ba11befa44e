package main

import (
	"fmt"
	"os"
	"strings"
)

// traceAttacks come last: they check what all the others have left behind.
var traceAttacks = []attack{
	{name: "secrets in logs", by: user, tries: "reading what every daemon of this run has logged", holds: "no secret, no token, no key", alone: true, run: func(w *world) error {
		w.mu.Lock()
		daemons := w.daemons
		w.mu.Unlock()
		for _, d := range daemons {
			if err := w.secretIn(d.log.String()); err != nil {
				return fmt.Errorf("the log of %v: %w", d.cmd.Args, err)
			}
			if tokenPattern.MatchString(d.log.String()) {
				return fmt.Errorf("the log of %v: a token", d.cmd.Args)
			}
		}
		if log := w.main.log.String(); !strings.Contains(log, "msg=ready") {
			return fmt.Errorf("control: %q", log)
		}
		return nil
	}},
	{name: "secrets in status", by: user, tries: "`imdsfs status`, `status --json`, `options get`, metrics", holds: "what was refused is counted; no secret, no token", alone: true, run: func(w *world) error {
		for _, args := range [][]string{{"status"}, {"status", "--json"}, {"options", "get"}} {
			out, err := w.as(0, append([]string{imdsfs}, args...)...)
			if err := first(err, w.secretIn(out)); err != nil {
				return fmt.Errorf("%v: %w", args, err)
			}
			if tokenPattern.MatchString(out) {
				return fmt.Errorf("%v: a token", args)
			}
		}
		out, _ := w.as(0, imdsfs, "status")
		for _, want := range []string{"issued", "refused"} {
			if !strings.Contains(out, want) {
				return fmt.Errorf("status does not count %s:\n%s", want, out)
			}
		}
		return nil
	}},
	{name: "secrets in files", by: user, tries: "`grep` in the run-time and state directories and in `/tmp`, as root", holds: "no secret that was in an instance file, no token", alone: true, run: func(w *world) error {
		for _, dir := range []string{"/run/imdsfs", "/var/lib/imdsfs", "/tmp", w.kept.runtime} {
			out, _ := w.sh(0, "grep -raoE 'AQAEA[A-Za-z0-9_-]{49}==|forbidden-[a-z-]*|"+secretKey+"' "+dir+" 2>/dev/null")
			if out != "" {
				return fmt.Errorf("%s: %s", dir, out)
			}
		}
		return nil
	}},
	{name: "a mount after the stop", by: container, tries: "reading the mount, its directory and the address after the daemon's end", holds: "unmounted, the directory and the link are gone, nothing outside has changed", alone: true, run: func(w *world) error {
		dir := w.dir()
		d, err := w.serve(instance(mainID, ""), "--listen", "127.0.0.1:0", "--mount", dir+"/m", "--runtime-dir", dir+"/r", "--state-dir", dir+"/s")
		if err != nil {
			return err
		}
		d.stop()
		if d.end != nil {
			return fmt.Errorf("%w\n%s", d.end, d.log)
		}
		if _, err := os.Lstat(dir + "/m"); err == nil {
			return fmt.Errorf("%s/m is left", dir)
		}
		if left, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(left), dir) {
			return fmt.Errorf("%s/m is still mounted", dir)
		}
		if _, err := os.Lstat(dir + "/r/admin.sock"); err == nil {
			return fmt.Errorf("the admin socket is left")
		}
		return nil
	}},
}
