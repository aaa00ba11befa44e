package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A breakdown is a daemon that suffers at steps of its own choosing.
type breakdown struct {
	*site
	d        *served
	faults   string // see package fault
	watchdog string
	turn     int // of the value
	held     int // a descriptor of the first value
}

// newBreakdown builds imdsfs with the build tag faults.
func newBreakdown(t *testing.T, signal string) *breakdown {
	t.Helper()
	s := newSite(t, least("", `tier = "turn 0"`))
	b := &breakdown{site: s, faults: s.mustMkdir("faults"), watchdog: "15s", held: -1}
	program(t, s.base+"/imdsfs", "devel", "faults")
	if signal == "STOP" {
		// Each step costs this time. On a busy machine a daemon that is well needs more of it.
		start := time.Now()
		must(t, exec.Command(s.base+"/imdsfs", "version").Run())
		b.watchdog = max(500*time.Millisecond, 20*time.Since(start)).String()
	}
	t.Setenv("IMDSFS_FAULT", b.faults+" "+signal)
	return b
}

// begin starts a keeper, whose daemon may suffer at once.
func (b *breakdown) begin() {
	b.t.Helper()
	b.d = b.launchAs([]string{b.base + "/imdsfs"}, "--keep", "--watchdog", b.watchdog)
}

func (b *breakdown) arm(step string) {
	b.t.Helper()
	must(b.t, os.WriteFile(b.faults+"/"+step, nil, 0o644))
}

func (b *breakdown) isArmed(step string) bool {
	_, err := os.Stat(b.faults + "/" + step)
	return err == nil
}

// passed are the steps since the last time, each once.
func (b *breakdown) passed() []string {
	text, _ := os.ReadFile(b.faults + "/passed")
	os.Remove(b.faults + "/passed")
	steps := strings.Fields(string(text))
	slices.Sort(steps)
	return slices.Compact(steps)
}

func (b *breakdown) change() {
	b.t.Helper()
	b.turn++
	rewrite(b.t, b.file, least("", fmt.Sprintf("tier = \"turn %d\"", b.turn)))
}

// served waits until everything is as it should be: a daemon that answers, on both doors with the newest value,
// and what was open as it was.
func (b *breakdown) served() {
	b.t.Helper()
	want := fmt.Sprintf("turn %d", b.turn)
	kit.Eventually(b.t, "a daemon serves "+want, func() bool {
		if b.d.ended() {
			b.t.Fatal("the keeper ended")
		}
		if exec.Command(b.base+"/imdsfs", "status", "--runtime-dir", b.runtime).Run() != nil {
			return false
		}
		out, err := exec.Command(b.base+"/imdsfs", "get", "tier", "--runtime-dir", b.runtime).Output()
		return err == nil && string(out) == want
	})
	b.expect(b.mount+tier, want)
	if b.held < 0 {
		fd, err := unix.Open(b.mount+tier, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		must(b.t, err)
		b.held = fd
		b.t.Cleanup(func() { unix.Close(fd) })
		return
	}
	must(b.t, unix.Fadvise(b.held, 0, 0, unix.FADV_DONTNEED))
	text := make([]byte, 100)
	if n, err := unix.Pread(b.held, text, 0); err != nil || string(text[:n]) != "turn 0" {
		b.t.Errorf("what was open is now %q, %v", text[:max(n, 0)], err)
	}
}

// hanging are processes of the site in a wait that no signal ends.
func (b *breakdown) hanging() (found []string) {
	for pid, command := range b.processes() {
		if strings.HasPrefix(command, "D") {
			where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid))
			found = append(found, fmt.Sprintf("%d %s in %s", pid, command, where))
		}
	}
	return found
}

// occasions are what a daemon goes through, each with how to bring it about.
var occasions = []struct {
	name  string
	least int // steps
	do    func(b *breakdown)
}{
	{"start", 10, (*breakdown).begin},
	{"resume", 9, func(b *breakdown) {
		pids := childrenNamed(b.d.cmd.Process.Pid)
		if len(pids) == 1 {
			syscall.Kill(pids[0], syscall.SIGKILL)
		}
	}},
	{"change", 3, (*breakdown).change},
	{"upgrade", 12, func(b *breakdown) {
		// Whoever suffers in the middle of it does not say that it went well.
		exec.Command(b.base+"/imdsfs", "upgrade", "--runtime-dir", b.runtime).Run()
	}},
	{"change and kill", 3, func(b *breakdown) {
		b.change()
		for _, pid := range childrenNamed(b.d.cmd.Process.Pid) {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}},
}

// TestEveryStepMayBeTheLast has the daemon die, and then hang, at each step of a resume, of a change and of an
// upgrade, and die at each step of a first start. It is always served in the end.
func TestEveryStepMayBeTheLast(t *testing.T) {
	for _, signal := range []string{"KILL", "STOP"} {
		t.Run(signal, func(t *testing.T) {
			b := newBreakdown(t, signal)
			b.begin()
			b.served()
			steps := map[string][]string{"start": b.passed()}
			for _, o := range occasions[1:] {
				o.do(b)
				b.served()
				steps[o.name] = b.passed()
			}
			for _, o := range occasions[1:] {
				if signal == "STOP" && o.name == "change and kill" {
					continue // the same steps as resume, and each costs the watchdog's time
				}
				if len(steps[o.name]) < o.least {
					t.Errorf("%s has the steps %v only", o.name, steps[o.name])
				}
				for _, step := range steps[o.name] {
					b.arm(step)
					o.do(b)
					kit.Eventually(t, "it comes to "+step, func() bool { return !b.isArmed(step) })
					b.served()
					if left := b.hanging(); len(left) > 0 {
						t.Errorf("%s, %s at %s: left hanging: %v", o.name, signal, step, left)
					}
					if t.Failed() {
						t.Fatalf("in %s, %s at %s", o.name, signal, step)
					}
				}
			}
			if signal == "STOP" {
				b.end(b.d)
				return // a first start that hangs is a failed one
			}
			b.dieInARow(steps["resume"])
			b.end(b.d)
			// The first start: there is nothing yet to go on with, so a keeper may end.
			for _, step := range steps["start"] {
				b.arm(step)
				b.begin()
				kit.Eventually(t, "it comes to "+step, func() bool { return !b.isArmed(step) })
				kit.Eventually(t, step+": ended, or served", func() bool {
					return b.d.ended() || exec.Command(b.base+"/imdsfs", "status", "--runtime-dir", b.runtime).Run() == nil
				})
				if b.d.ended() {
					b.d.kill()
				} else {
					b.end(b.d)
				}
				if left := append(b.hanging(), mountsBelow(b.base)...); len(left) > 0 {
					t.Errorf("start, %s at %s: left: %v", signal, step, left)
				}
			}
			t.Logf("%d steps: %v", len(steps["start"])+len(steps["resume"])+len(steps["change"])+len(steps["upgrade"]), steps)
		})
	}
}

// dieInARow has a daemon die before it has told the kernel of a change, and its successor at each step of the resume:
// what the first one did not tell, the second one does.
func (b *breakdown) dieInARow(steps []string) {
	b.t.Helper()
	const untold = "tree-noted"
	for _, step := range steps {
		if step == untold {
			continue // one file is one death
		}
		b.arm(untold)
		b.arm(step)
		b.change()
		kit.Eventually(b.t, "it comes to "+step, func() bool { return !b.isArmed(untold) && !b.isArmed(step) })
		b.served()
		if b.t.Failed() {
			b.t.Fatalf("in a change, and then at %s", step)
		}
	}
}

// TestSilenceIsNotWaitedFor: a daemon that hangs is replaced, though it lives.
func TestSilenceIsNotWaitedFor(t *testing.T) {
	s := newTierSite(t)
	d := s.start("--keep", "--watchdog", "5s")
	pids := childrenNamed(d.cmd.Process.Pid)
	if len(pids) != 1 {
		t.Fatalf("the keeper's daemons are %v", pids)
	}
	s.expect(s.mount+tier, "gold")
	kit.Freeze(t, pids[0])
	s.expect(s.mount+colour, "blue") // which the kernel does not have
	if !strings.Contains(d.log.String(), "has been silent for") {
		t.Error("the keeper does not say why")
	}
	if _, err := os.Stat(filepath.Join("/proc", fmt.Sprint(pids[0]))); err == nil {
		t.Error("the one that hangs is still there")
	}
	s.end(d)
}
