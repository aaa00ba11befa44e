package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// boundaryAttacks are those of a compromised daemon, or of its user, on root's keeper and helper, and those of somebody who
// starts imdsfs with a strange environment.
var boundaryAttacks = []attack{
	{name: "root's terminal", by: bad, tries: "TIOCSTI, job control and reading from the terminal on which root has started `--keep --user NAME`", holds: "the daemon has no controlling terminal and a session of its own", run: func(w *world) error {
		worker, err := w.kept.worker()
		if err != nil {
			return err
		}
		keeper, daemon := strconv.Itoa(w.kept.pid()), strconv.Itoa(worker)
		if statField(keeper, 7) == "0" {
			return fmt.Errorf("control: the keeper has no terminal")
		}
		if tty := statField(daemon, 7); tty != "0" {
			return fmt.Errorf("the daemon's controlling terminal is %s", tty)
		}
		if statField(keeper, 6) == statField(daemon, 6) {
			return fmt.Errorf("both are in session %s", statField(keeper, 6))
		}
		return nil
	}},
	{name: "reading root's terminal", by: bad, tries: "a descriptor of the terminal that is open for reading", holds: "none: standard input is /dev/null, and the log cannot be read from", run: func(w *world) error {
		worker, err := w.kept.worker()
		if err != nil {
			return err
		}
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", worker))
		if err != nil || len(fds) < 4 {
			return fmt.Errorf("control: %d descriptors, %w", len(fds), err)
		}
		for _, fd := range fds {
			target, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", worker, fd.Name()))
			info, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", worker, fd.Name()))
			_, rest, _ := strings.Cut(string(info), "flags:")
			flags, _ := strconv.ParseInt(strings.Fields(rest + " 0")[0], 8, 64)
			if (strings.HasPrefix(target, "/dev/pts/") || strings.HasPrefix(target, "/dev/tty")) && flags&unix.O_ACCMODE != unix.O_WRONLY {
				return fmt.Errorf("descriptor %s is %s, with flags %o", fd.Name(), target, flags)
			}
		}
		return nil
	}},
	{name: "descriptors, environment and rights of root", by: bad, tries: "what the daemon of another user inherits from root's keeper", holds: "`/` as its directory, no secret of root's environment, no capability but CAP_NET_BIND_SERVICE, no new privileges, uid and gid of the user", run: func(w *world) error {
		worker, err := w.kept.worker()
		if err != nil {
			return err
		}
		proc := fmt.Sprintf("/proc/%d/", worker)
		environ, err := os.ReadFile(proc + "environ")
		if err != nil || len(environ) == 0 {
			return fmt.Errorf("control: %q, %w", environ, err)
		}
		if err := w.secretIn(string(environ)); err != nil {
			return fmt.Errorf("its environment: %w", err)
		}
		if dir, err := os.Readlink(proc + "cwd"); dir != "/" {
			return fmt.Errorf("its directory is %q, %w", dir, err)
		}
		status, err := os.ReadFile(proc + "status")
		if err != nil {
			return err
		}
		for _, want := range []string{"Uid:\t65534\t65534\t65534\t65534\n", "Gid:\t65534\t65534\t65534\t65534\n", "CapEff:\t0000000000000400\n", "CapBnd:\t0000000000000400\n", "NoNewPrivs:\t1\n"} {
			if !strings.Contains(string(status), want) {
				return fmt.Errorf("not %q in\n%s", want, status)
			}
		}
		return nil
	}},
	{name: "a program for an upgrade", by: bad, tries: "`imdsfs upgrade --program` with his own program, by the daemon's user", holds: "not run, or not with the daemon's capability", run: func(w *world) error {
		dir := w.dir()
		proof := dir + "/his/proof"
		script := "#!/bin/sh\nsed -n s/CapEff://p /proc/self/status >>" + proof + "\nexit 1\n"
		if err := first(os.Mkdir(dir+"/his", 0o755), os.WriteFile(dir+"/his/program", []byte(script), 0o755), os.Chown(dir+"/his", nobody, nobody), os.Chown(dir+"/his/program", nobody, nobody)); err != nil {
			return err
		}
		if out, err := w.as(nobody, imdsfs, "upgrade", "--runtime-dir", w.kept.runtime, "--program", dir+"/his/program"); err == nil {
			return fmt.Errorf("upgraded: %s", out)
		}
		rights, err := os.ReadFile(proof)
		if err == nil && strings.Trim(string(rights), "0 \t\n") != "" {
			return fmt.Errorf("his program ran with CapEff %s", rights)
		}
		return nil
	}},
	{name: "a forged lock", by: bad, tries: "`mount-HASH.lock` of another daemon's mount point in the run-time directory, before the keeper and a unit's `ExecStopPost=` clean up", holds: "the other daemon's mount goes on", alone: true, run: func(w *world) error {
		mount := w.dir() + "/m"
		other, err := w.serve(instance(mainID, ""), "--listen", "none", "--mount", mount)
		if err != nil {
			return err
		}
		defer other.stop()
		dir := w.dir()
		file := dir + "/instance.toml"
		if err := os.WriteFile(file, []byte(instance(keptID, "")), 0o644); err != nil {
			return err
		}
		d, err := w.launchFile(how{}, file, "--keep", "--user", "nobody", "--listen", "127.0.0.1:0", "--mount", dir+"/m", "--runtime-dir", dir+"/run", "--state-dir", dir+"/state")
		if err != nil {
			return err
		}
		defer d.stop()
		if err := d.ready(); err != nil {
			return err
		}
		sum := sha256.Sum256([]byte(mount))
		lock := dir + "/run/mount-" + hex.EncodeToString(sum[:8]) + ".lock"
		if err := w.allowed(nobody, "echo made >"+lock); err != nil {
			return err
		}
		d.stop()
		// A unit's clean-up, ExecStopPost=, sees the same directory.
		w.asIn(0, []string{"EXIT_CODE=exited", "EXIT_STATUS=0"}, imdsfs, "mount-helper", "--after-stop", "--runtime-dir", dir+"/run", "--mount", dir+"/m")
		if out, err := w.as(mallory, "timeout", "10", "cat", mount+idPath); out != mainID || err != nil {
			return fmt.Errorf("the other daemon's mount: %q, %w\n%s", out, err, d.log)
		}
		return other.alive()
	}},
	{name: "messages to the keeper", by: bad, tries: "names with colons, NULs, line breaks and of 3,000 bytes; 2,000 files; 80 KiB of nonsense", holds: "the keeper lives, holds at most 256 files, logs little, starts the next daemon with as many names as files, and stops when told", run: func(w *world) error {
		dir := w.dir()
		if err := os.Chmod(dir, 0o777); err != nil {
			return err
		}
		d, err := w.launch(how{argv0: actor, env: []string{badVariable + "=" + dir}}, instance(mainID, ""), "--keep", "--listen", "127.0.0.1:0", "--mount", "none")
		if err != nil {
			return err
		}
		defer d.stop()
		if err := until("the next daemon runs", func() bool { _, err := os.Stat(dir + "/next"); return err == nil || d.ended() }); err != nil {
			return fmt.Errorf("%w\n%.2000s", err, d.log)
		}
		if err := d.alive(); err != nil {
			return err
		}
		note, err := os.ReadFile(dir + "/next")
		if err != nil {
			return err
		}
		var n int
		fmt.Sscanf(string(note), "LISTEN_FDS=%d", &n)
		_, names, _ := strings.Cut(string(note), "LISTEN_FDNAMES=")
		names = strings.TrimSuffix(names, "\n")
		if got := len(strings.Split(names, ":")); n > 256 || n != got && n > 0 {
			return fmt.Errorf("%d files with %d names", n, got)
		}
		if strings.ContainsFunc(names, func(r rune) bool { return r < ' ' || r > '~' }) {
			return fmt.Errorf("names are %q", names)
		}
		if fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.pid())); err != nil || len(fds) > 256+40 {
			return fmt.Errorf("the keeper has %d files open, %w", len(fds), err)
		}
		if log := d.log.String(); len(log) > 64<<10 || strings.Contains(log, "\x1b") {
			return fmt.Errorf("the log has %d bytes: %.500q", len(log), log)
		}
		begin := time.Now()
		d.stop()
		if took := time.Since(begin); took > 13*time.Second {
			return fmt.Errorf("the stop took %v", took)
		}
		return nil
	}},
	{name: "garbage in the run-time directory", by: bad, tries: "every file there overwritten, made a link to a file of root's, or a FIFO, before the daemon is killed", holds: "the keeper's next daemon goes on, or says what is wrong; nothing outside changes, nothing hangs", slow: true, run: func(w *world) error {
		for _, spoil := range []string{"head -c 5000 /dev/urandom >FILE", ": >FILE", "rm -f FILE && ln -s OUTSIDE/file FILE", "rm -f FILE && mkfifo FILE", "chmod 777 FILE"} {
			t, err := w.trapdoor()
			if err != nil {
				return err
			}
			dir := w.dir()
			file := dir + "/instance.toml"
			if err := os.WriteFile(file, []byte(instance(keptID, "")), 0o644); err != nil {
				return err
			}
			d, err := w.launchFile(how{}, file, "--keep", "--user", "nobody", "--listen", "127.0.0.1:0", "--mount", dir+"/m", "--runtime-dir", dir+"/run", "--state-dir", dir+"/state")
			if err != nil {
				return err
			}
			defer d.stop()
			if err := d.ready(); err != nil {
				return err
			}
			worker, err := d.worker()
			if err != nil {
				return err
			}
			line := "for f in " + dir + "/run/*; do " + strings.NewReplacer("FILE", `"$f"`, "OUTSIDE", t.outside).Replace(spoil) + "; done"
			w.sh(nobody, line)
			syscall.Kill(worker, syscall.SIGKILL)
			if err := until("the next daemon is ready, or the keeper gives up", func() bool {
				return d.ended() || strings.Count(d.log.String(), "msg=ready") > 1 || strings.Contains(d.log.String(), "imdsfs: error: ")
			}); err != nil {
				return fmt.Errorf("%s: %w\n%s", spoil, err, d.log)
			}
			d.stop()
			if log := d.log.String(); strings.Contains(log, "panic") || strings.Contains(log, "goroutine ") {
				return fmt.Errorf("%s: %s", spoil, log)
			}
			if err := t.unchanged(); err != nil {
				return fmt.Errorf("%s: %w", spoil, err)
			}
		}
		return nil
	}},
	environs("variables of an exec", "IMDSFS_KEPT with nonsense, with descriptors that are not open, with 10,000 names",
		"IMDSFS_KEPT=$$", "IMDSFS_KEPT=\"$$ x=1000000\"", "IMDSFS_KEPT=\"$$ lock=7 metrics=8 server=9\"", "IMDSFS_KEPT=\"$$ x\"", "IMDSFS_KEPT=\"$$ =\"", "IMDSFS_KEPT=\"$$ x=-1\"", "IMDSFS_KEPT=\"$$ keeper=9\"",
		"IMDSFS_KEPT=\"$$ fuse-device=9\"", "IMDSFS_KEPT=\"$$ $(seq -s ' ' -f 'n%g=9' 10000)\"", "IMDSFS_KEPT=\"1 x=0\""),
	environs("variables of a keeper", "IMDSFS_KEEPER with our parent, and a socket that is none",
		"IMDSFS_KEEPER=$PPID", "IMDSFS_KEEPER=$PPID IMDSFS_KEEPER_SOCKET=0", "IMDSFS_KEEPER=$PPID IMDSFS_KEEPER_SOCKET=99999", "IMDSFS_KEEPER=$PPID IMDSFS_KEEPER_SOCKET=-1", "IMDSFS_KEEPER=1 IMDSFS_KEEPER_SOCKET=0", "IMDSFS_KEEPER=x",
		"IMDSFS_KEEPER=$PPID IMDSFS_KEEPER_SOCKET=0 LISTEN_FDS=3", "IMDSFS_BACKGROUND=x", "IMDSFS_MOUNT_SOURCE=\"$(printf 'a\\nb,c')\"", "IMDSFS_LINGERING=1"),
	environs("variables of socket activation", "LISTEN_FDS of -1, 10⁶, 2⁶⁴ and with names that do not fit",
		"LISTEN_PID=$$ LISTEN_FDS=-1", "LISTEN_PID=$$ LISTEN_FDS=1000000", "LISTEN_PID=$$ LISTEN_FDS=18446744073709551616", "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=kept-lock:kept-lock", "LISTEN_PID=$$ LISTEN_FDS=5 LISTEN_FDNAMES=kept-fuse-device",
		"LISTEN_PID=$$ LISTEN_FDS=x", "LISTEN_PID=1 LISTEN_FDS=3", "LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=$(seq -s : 5000)"),
	environs("a hostile notify socket", "NOTIFY_SOCKET at a file, a FIFO, a missing path, an abstract name, an overlong one; FDSTORE, WATCHDOG_USEC of nonsense",
		"NOTIFY_SOCKET="+outside+"/file FDSTORE=64", "NOTIFY_SOCKET=/missing FDSTORE=64", "NOTIFY_SOCKET=@evil FDSTORE=64", "NOTIFY_SOCKET="+strings.Repeat("/x", 500)+" FDSTORE=64", "NOTIFY_SOCKET=relative FDSTORE=9999999999999999999999", "FDSTORE=-1",
		"WATCHDOG_USEC=-1 WATCHDOG_PID=$$", "WATCHDOG_USEC=1 WATCHDOG_PID=$$ NOTIFY_SOCKET=/missing", "WATCHDOG_USEC=99999999999999999999", "JOURNAL_STREAM=x"),
}

// handedOver opens the descriptors that the environments name. Otherwise these numbers are the Go runtime's own.
const handedOver = " 3</dev/null 4</dev/null 5</dev/null 6</dev/null 7</dev/null 8</dev/null 9</dev/null"

// environs is an attack with strange environments, each as a shell assigns it.
func environs(name, tries string, assignments ...string) attack {
	return attack{name: name, by: user, tries: tries, holds: "the daemon is ready, or says at once what is wrong; no crash, no secret, nothing outside changes", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		for _, assignment := range assignments {
			d, err := w.launch(how{prefix: []string{"sh", "-c", assignment + ` exec "$@" </dev/null` + handedOver, "sh"}}, instance(mainID, ""), "--listen", "127.0.0.1:0", "--mount", "none")
			if err != nil {
				return err
			}
			begin := time.Now()
			err = d.ready()
			if took := time.Since(begin); took > 15*time.Second {
				return fmt.Errorf("%.200s: it took %v\n%s", assignment, took, d.log)
			}
			log := d.log.String()
			if err != nil && !strings.Contains(log, "imdsfs: error: ") || strings.Contains(log, "panic:") || strings.Contains(log, "goroutine ") || strings.Contains(log, "fatal error") {
				return fmt.Errorf("%.200s: %w\n%.2000s", assignment, err, log)
			}
			d.stop()
			if err := w.secretIn(d.log.String()); err != nil {
				return fmt.Errorf("%.200s: %w", assignment, err)
			}
		}
		return t.unchanged()
	}}
}
