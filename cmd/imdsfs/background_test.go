package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/mount"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// What started mount reads to the end of its pipes, gets its terminal back, and may remove its directory.
func TestADaemonThatWasMountedHoldsNothingOfItsStarter(t *testing.T) {
	for _, options := range []string{"keep", "log-level=debug"} {
		t.Run(options, func(t *testing.T) {
			w := newMountSite(t, webFile, "")
			kit.RequireCommand(t, "script")
			w.mustMkdir("here")
			// On a terminal, with descriptor 9 left open; the pipe ends when nobody has 9 or the terminal.
			line := "cd " + w.base + "/here && mount -t fuse.imdsfs -o " + w.directories() + "," + options + " " + w.file + " " + w.mount
			w.run("{ script -qec '" + line + "' /dev/null 9>&1 </dev/null; } | cat")
			for pid, command := range w.processes() {
				if !strings.Contains(command, " serve ") {
					continue
				}
				proc := fmt.Sprintf("/proc/%d/", pid)
				_, stat, _ := strings.Cut(kit.ReadFile(t, proc+"stat"), ") ") // state, parent, group, session, terminal
				if session, tty := strings.Fields(stat)[3], strings.Fields(stat)[4]; tty != "0" || !slices.Contains(w.daemons(), atoi(session)) {
					t.Errorf("process %d has session %s, terminal %s", pid, session, tty)
				}
				if cwd, _ := os.Readlink(proc + "cwd"); cwd != "/" {
					t.Errorf("process %d works in %s", pid, cwd)
				}
				for _, fd := range []string{"0", "1", "2"} {
					if to, _ := os.Readlink(proc + "fd/" + fd); to != "/dev/null" {
						t.Errorf("descriptor %s of process %d is %s", fd, pid, to)
					}
				}
			}
			must(t, os.Remove(w.base+"/here"))

			// What it says now is for nobody, and harms nobody.
			rewrite(t, w.file, "nonsense\n")
			kit.Eventually(t, "the file is read", func() bool {
				return strings.Contains(w.run("imdsfs status --runtime-dir "+w.runtime), w.file+":1")
			})
			if got := w.run("cat " + w.mount + "/latest/meta-data/instance-id"); got != "i-0a1b2c3d4e5f67890" {
				t.Errorf("the instance is %s", got)
			}
			w.umountIt()
		})
	}
}

func atoi(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

func TestAMountedDaemonLogsWhereItIsTold(t *testing.T) {
	for _, keep := range []string{"", ",keep"} {
		w := newMountSite(t, webFile, "")
		file := w.base + "/log"
		must(t, os.WriteFile(file, []byte("before\nimdsfs: error: of before\n"), 0o600))
		if said := w.mountIt("log=" + file + keep); said != "" {
			t.Errorf("it says\n%s", said)
		}
		w.run("kill -HUP " + strconv.Itoa(w.serving()))
		kit.Eventually(t, "the reload is logged", func() bool { return strings.Contains(kit.ReadFile(t, file), "msg=reloaded") })
		if text := kit.ReadFile(t, file); !strings.HasPrefix(text, "before\nimdsfs: error: of before\n") || !strings.Contains(text, "msg=ready") || strings.Contains(text, "notify") {
			t.Errorf("the log%s is\n%s", keep, text)
		}
		w.umountIt()
		kit.Eventually(t, "the end is logged", func() bool { return strings.Contains(kit.ReadFile(t, file), "unmounted by somebody else") })

		// What it says in vain is said, and in the log.
		for _, log := range []string{file, w.base + "/new"} {
			w.fails(mount.ExitFailed, "mount -t fuse.imdsfs -o "+w.directories()+keep+",log="+log+",listen=192.0.2.1:80 "+w.file+" "+w.mount,
				"imdsfs: error: listen tcp 192.0.2.1:80: bind: cannot assign requested address\nimdsfs: hint: the address belongs to no interface of this machine\n")
			if text := kit.ReadFile(t, log); !strings.Contains(text, "imdsfs: error: listen tcp 192.0.2.1:80") {
				t.Errorf("the log%s is\n%s", keep, text)
			}
		}
		if info, err := os.Stat(w.base + "/new"); err != nil || info.Mode() != 0o600 {
			t.Errorf("the log is made with %v, %v", info.Mode(), err)
		}

		// With -v what is logged at the start is shown.
		if said := w.run("mount -v -t fuse.imdsfs -o user,suid," + w.directories() + keep + " " + w.file + " " + w.mount); !strings.Contains(said, "msg=ready") ||
			!strings.Contains(said, "imdsfs: option suid is ignored: the mount is always nosuid,nodev,noexec\n") {
			t.Errorf("mount -v says\n%s", said)
		}
		w.umountIt()
	}
}

// serving is the process that answers at the site's run-time directory.
func (w *mountSite) serving() int {
	w.t.Helper()
	return atoi(strings.TrimSpace(w.run(`imdsfs status --json --runtime-dir ` + w.runtime + ` | sed -n 's/^  "pid": \([0-9]*\),$/\1/p'`)))
}

// In a mount unit standard error is the journal, and $JOURNAL_STREAM says so.
func TestTheJournalStays(t *testing.T) {
	w := newMountSite(t, webFile, "")
	journal := w.base + "/journal"
	line := "mount -t fuse.imdsfs -o keep," + w.directories() + " " + w.file + " " + w.mount
	w.run("exec 2>>" + journal + "; JOURNAL_STREAM=$(stat -c %d:%i " + journal + ") " + line)
	w.run("kill -HUP " + strconv.Itoa(w.serving()))
	kit.Eventually(t, "the reload is logged", func() bool { return strings.Contains(kit.ReadFile(t, journal), "msg=reloaded") })
	_, code := w.try("exec 2>>" + journal + "; JOURNAL_STREAM=$(stat -c %d:%i " + journal + ") " + line)
	if said := strings.Count(kit.ReadFile(t, journal), "imdsfs: error: an imdsfs is already running"); code != mount.ExitFailed || said != 1 {
		t.Errorf("exit code %d, the error is said %d times", code, said)
	}
	w.umountIt()

	// One that says something else is not the journal.
	w.run("exec 2>>" + journal + "; JOURNAL_STREAM=1:2 " + line)
	if to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", w.serving())); to != "/dev/null" {
		t.Errorf("standard error is %s", to)
	}
	w.umountIt()
}

// Who interrupts mount has nothing left of it: no daemon, no mount.
func TestAnInterruptedMountLeavesNothing(t *testing.T) {
	w := newMountSite(t, webFile, "")
	for i := range 20 {
		out, code := w.try("mount.fuse.imdsfs " + w.file + " " + w.mount + " -o keep," + w.directories() + " & starter=$!; sleep 0.0" + strconv.Itoa(i%10) + "; kill -TERM $starter; wait $starter")
		switch code {
		case 0:
			w.umountIt()
		case mount.ExitFailed, 128 + int(syscall.SIGTERM): // before it takes signals it has started nothing
			kit.Eventually(t, "the daemon has ended", func() bool { return len(w.daemons()) == 0 })
			if w.made() || len(w.mounts()) > 0 {
				t.Fatalf("left after %d: mounts %v", i, w.mounts())
			}
		default:
			t.Fatalf("exit code %d\n%s", code, out)
		}
	}
}
