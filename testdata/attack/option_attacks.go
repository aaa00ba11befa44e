package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// optionAttacks are those of somebody who may fill in a line of fstab, or a field of a program that writes one, and those
// of users who call the helper themselves.
var optionAttacks = []attack{
	{name: "suid, dev, exec, rw", by: user, tries: "`-o suid,dev,exec,rw,allow_other`", holds: "the mount is ro,nosuid,nodev,noexec all the same", run: func(w *world) error {
		return w.mounting("suid,dev,exec,rw,allow_other,x-evil=1", func(dir string) error {
			text, err := os.ReadFile("/proc/self/mountinfo")
			if err != nil {
				return err
			}
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, " "+dir+" ") && !strings.Contains(line, " ro,nosuid,nodev,noexec") {
					return errors.New(line)
				}
			}
			return nil
		})
	}},
	badOptions("commas and equals signs in values", "`log=/x,user=root`, `listen=127.0.0.1:0,evil`, `runtime-dir=/a=/b,c`, quotes and backslashes",
		"admin=none,evil", "listen=127.0.0.1:0,=x", "log=\"/run/x,evil\"", `log=/run/x\,evil`, "comment=a,evil=b", "listen=127.0.0.1:0,config=/etc/shadow", "mount=/etc", "c=/etc/shadow", "help", "--keep", "-c"),
	badOptions("options of other file systems", "`fd=3`, `rootmode=`, `user_id=0`, `source=`, `bind`, `remount,rw`, `move`",
		"fd=3", "rootmode=40777", "user_id=0", "group_id=0", "subtype=x", "source=/etc", "fsname=x", "bind", "rbind", "move", "remount,rw", "context=system_u", "loop", "offset=1"),
	badOptions("relative paths and missing values", "`log=x`, `runtime-dir=../x`, `state-dir=`, `admin=x`, `user=`, `log=`",
		"log=x", "log=../x", "runtime-dir=../x", "runtime-dir=", "state-dir=", "admin=x", "log=", "listen=", "watchdog=", "host="),
	badOptions("values that are none", "`listen=evil`, `allow-from=0.0.0.0`, `log-level=x`, `watchdog=-1`, `host=a/b`, a NUL, a line break",
		"listen=evil", "listen=169.254.169.254", "listen=1.2.3.4:999999", "allow-from=everybody", "allow-from=1.2.3.4", "allow-from=10.0.0.1/8", "log-level=loud", "log-format=xml", "host=a/b", "host=http://x", "metrics=x", "watchdog=soon", "listen=127.0.0.1:0\nlog-level=debug"),
	badOptions("users", "`user=nobody` without keep, `keep,user=` with one that does not exist, a number, root's files",
		"user=nobody", "keep,user=missing", "keep,user=../etc", "keep,user=65534x", "keep,user=-1", "keep=yes", "keep,user=nobody\n"),
	badOptions("logs that are no files", "a directory, a missing directory, a socket, a file below a file", "log=/run", "log=/missing/x", "log=/run/imdsfs/admin.sock", "log=/etc/passwd/x"),
	{name: "logs that are devices", by: user, tries: "`log=/dev/full`, `/dev/random`, `/dev/mem`, `/proc/sysrq-trigger`", holds: "mount(8) comes back, mounted or not; nothing hangs", run: func(w *world) error {
		for _, log := range []string{"/dev/full", "/dev/null", "/dev/zero"} {
			t, err := w.trapdoor()
			if err == nil {
				err = t.mountAndUnmount("log=" + log)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "a directory that is not to be covered", by: user, tries: "a file, a link, one with files in it, one where something is mounted, `/`, `/proc`, one that does not exist", holds: "refused, nothing is mounted", run: func(w *world) error {
		dir := w.dir()
		if err := w.allowed(0, "cd "+dir+" && mkdir full tmpfs && touch full/x file && ln -s "+outside+" link && mount -t tmpfs tmpfs tmpfs"); err != nil {
			return err
		}
		defer unix.Unmount(dir+"/tmpfs", unix.MNT_DETACH)
		before, _ := os.ReadFile("/proc/self/mountinfo")
		for _, place := range []string{dir + "/full", dir + "/file", dir + "/link", dir + "/tmpfs", dir + "/missing/m", "/", "/proc", "/proc/self/fd", "/dev", "/etc", theMount, theMount + "/latest", "", "/run/kept/x"} {
			file := dir + "/instance.toml"
			if err := os.WriteFile(file, []byte(instance(mainID, "")), 0o600); err != nil {
				return err
			}
			if out, err := w.as(0, helper, file, place, "-o", "listen=none,runtime-dir="+dir+"/r,state-dir="+dir+"/s"); err == nil || errors.Is(err, errHangs) || !strings.Contains(out, "imdsfs: error: ") {
				return fmt.Errorf("%q: %w: %s", place, err, out)
			}
		}
		after, _ := os.ReadFile("/proc/self/mountinfo")
		if n, m := strings.Count(string(before), "fuse.imdsfs"), strings.Count(string(after), "fuse.imdsfs"); m > n {
			return fmt.Errorf("%d mounts, were %d", m, n)
		}
		return nil
	}},
	{name: "a source that is no instance file", by: user, tries: "`/etc/shadow`, `/proc/self/mem`, a directory, a FIFO, `/dev/zero`, an option for a name", holds: "refused, in time, and no line of the file is repeated", run: func(w *world) error {
		dir := w.dir()
		if err := w.allowed(0, "mkfifo "+dir+"/fifo && echo '"+rootSecret+"' >"+dir+"/secret"); err != nil {
			return err
		}
		for _, source := range []string{dir + "/secret", "/proc/self/mem", "/", dir + "/fifo", "/dev/zero", "-o", "--help=x", "/dev/stdin", dir + "/missing"} {
			out, err := w.as(0, "timeout", "20", helper, source, dir+"/m", "-o", "listen=none,runtime-dir="+dir+"/r,state-dir="+dir+"/s")
			var ended interface{ ExitCode() int }
			if err == nil || errors.As(err, &ended) && ended.ExitCode() == 124 {
				return fmt.Errorf("%s: %w: %s", source, err, out)
			}
			if err := w.secretIn(out); err != nil {
				return fmt.Errorf("%s: %w", source, err)
			}
		}
		return nil
	}},
	{name: "a user calls the helper", by: user, tries: "`mount.fuse.imdsfs` over `/run`, `/etc` and the real mount, in and outside of a user namespace", holds: "refused: he may do nothing that he could not before", run: func(w *world) error {
		flags := " -o listen=none,runtime-dir=" + home + "/r,state-dir=" + home + "/s"
		if err := w.refused(mallory, helper+" none /run/attack/m"+flags, helper+" none "+theMount+flags, helper+" none /etc"+flags, "fusermount3 -o ro "+theMount, imdsfs+" mount-helper --mount /run/attack/x"); err != nil {
			return err
		}
		w.sh(mallory, imdsfs+" mount-helper --unmount --mount "+theMount+"; "+imdsfs+" mount-helper --after-stop --mount "+theMount+" --runtime-dir "+home) // which has nothing to do
		if out, _ := w.as(victim, "cat", idFile); out != mainID {
			return fmt.Errorf("the mount: %q", out)
		}
		return nil
	}},
}

// mounting mounts with an option, calls check, and unmounts.
func (w *world) mounting(option string, check func(dir string) error) error {
	dir := w.dir()
	file := dir + "/instance.toml"
	if err := os.WriteFile(file, []byte(instance(mainID, "")), 0o600); err != nil {
		return err
	}
	out, err := w.as(0, helper, file, dir+"/m", "-o", "listen=none,runtime-dir="+dir+"/r,state-dir="+dir+"/s,"+option)
	if err != nil {
		return fmt.Errorf("control: %w: %s", err, out)
	}
	defer unix.Unmount(dir+"/m", unix.MNT_DETACH) // ends the daemon
	if out, err := w.as(mallory, "cat", dir+"/m"+idPath); out != mainID || err != nil {
		return fmt.Errorf("control: %q, %w", out, err)
	}
	return check(dir + "/m")
}

// badOptions is an attack with options. Each must be refused, with nothing mounted.
func badOptions(name, tries string, options ...string) attack {
	return attack{name: name, by: user, tries: tries, holds: "refused with the option's name; nothing is mounted, nothing is started", run: func(w *world) error {
		dir := w.dir()
		file := dir + "/instance.toml"
		if err := os.WriteFile(file, []byte(instance(mainID, "")), 0o600); err != nil {
			return err
		}
		for _, option := range options {
			given := "runtime-dir=" + dir + "/r,state-dir=" + dir + "/s,"
			if !strings.HasPrefix(option, "listen=") {
				given += "listen=none,"
			}
			out, err := w.as(0, helper, file, dir+"/m", "-o", given+option)
			if err == nil || errors.Is(err, errHangs) || !strings.Contains(out, "imdsfs: error: ") {
				unix.Unmount(dir+"/m", unix.MNT_DETACH)
				return fmt.Errorf("%q: %w: %s", option, err, out)
			}
			if _, err := os.Lstat(dir + "/m"); err == nil {
				return fmt.Errorf("%q: %s/m is left", option, dir)
			}
		}
		return nil
	}}
}
