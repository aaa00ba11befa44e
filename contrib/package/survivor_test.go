package packaging

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// storeMost is the number of files that systemd keeps for an idle daemon: the mount with its lock, its record and the last
// two trees, the lock of the run-time directory, a socket, and the settings of [server].
const storeMost = 8

// A survivor is the service that the test kills and restarts.
type survivor struct {
	*machine
	clients                 *clients
	cgroup                  string // of the service, on the host
	kills, handovers, mixed int
	begun                   time.Time // of the lap
}

func newSurvivor(m *machine) *survivor {
	return &survivor{machine: m, clients: m.startClients(), cgroup: filepath.Join(m.cgroup.Name(), "system.slice/imdsfs.service"), begun: time.Now()}
}

func (s *survivor) lap(what string) {
	s.t.Logf("%6.1f s for %s", time.Since(s.begun).Seconds(), what)
	s.begun = time.Now()
}

// A victim is the target of a signal.
type victim struct {
	pidfd int
	all   bool // and all other processes of the service, by SIGKILL
}

// starting is a daemon that has just been started, after a random time, or none if one works.
func (s *survivor) starting() victim {
	s.t.Helper()
	d := s.daemon()
	time.Sleep(rand.N(100 * time.Millisecond))
	return d
}

// working is a daemon that has published and answered, and probably is about to do so again.
func (s *survivor) working() victim {
	s.t.Helper()
	s.clients.further()
	time.Sleep(rand.N(20 * time.Millisecond))
	return s.daemon()
}

func (s *survivor) any() victim {
	s.t.Helper()
	switch rand.IntN(4) {
	case 0:
		return s.starting()
	case 1:
		d := s.working()
		d.all = true
		return d
	}
	return s.working()
}

// daemon waits for the service's main process.
func (s *survivor) daemon() victim {
	s.t.Helper()
	pidfd := -1
	kit.Eventually(s.t, "there is a daemon", func() bool {
		pidfd = s.findDaemon()
		return pidfd >= 0
	})
	return victim{pidfd: pidfd}
}

func (s *survivor) findDaemon() (pidfd int) {
	text, _ := os.ReadFile(filepath.Join(s.cgroup, "cgroup.procs"))
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			continue
		}
		// First, so that the number cannot be reused for another process.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		line, _ := os.ReadFile(filepath.Join("/proc", word, "cmdline"))
		status, _ := os.ReadFile(filepath.Join("/proc", word, "status"))
		// Until it calls exec a child looks the same, except for its parent.
		parent := "\nPPid:\t" + strconv.Itoa(s.pid) + "\n"
		if strings.HasPrefix(string(line), "/usr/bin/imdsfs\x00serve\x00") && strings.Contains(string(status), parent) && !hasEnded(fd) {
			return fd
		}
		unix.Close(fd)
	}
	return -1
}

func hasEnded(pidfd int) bool {
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// kill kills a daemon and waits for its end. Something else may have ended it already.
func (s *survivor) kill(d victim) {
	s.t.Helper()
	s.clients.around(func() {
		if d.all {
			if err := os.WriteFile(filepath.Join(s.cgroup, "cgroup.kill"), []byte("1"), 0); err != nil {
				s.t.Errorf("kill all of the service: %v", err)
			}
		}
		s.end(d, unix.SIGKILL)
	})
	s.kills++
}

func (s *survivor) end(d victim, sig unix.Signal) {
	s.t.Helper()
	defer unix.Close(d.pidfd)
	if err := unix.PidfdSendSignal(d.pidfd, sig, nil, 0); err != nil && err != unix.ESRCH {
		s.t.Errorf("send %v: %v", sig, err)
	}
	kit.Eventually(s.t, "the daemon ends", func() bool { return hasEnded(d.pidfd) })
}

// handOver runs a command that hands the service over, and waits until the successor works.
func (s *survivor) handOver(command string) {
	s.t.Helper()
	s.run(command)
	s.clients.further()
	s.handovers++
}

// dropIn changes the unit and makes the change take effect.
func (s *survivor) dropIn(text string) {
	s.t.Helper()
	s.write(dropInPath, text)
	s.run("systemctl daemon-reload")
	s.handOver("systemctl restart imdsfs")
}

// crash ends the daemon as a crash would.
func (s *survivor) crash() {
	s.t.Helper()
	d := s.working()
	s.clients.around(func() { s.end(d, unix.SIGABRT) })
	s.clients.further()
}

// hang stops the daemon. systemd's watchdog has to notice.
func (s *survivor) hang() {
	s.t.Helper()
	d := s.working()
	s.clients.around(func() { s.end(d, unix.SIGSTOP) })
	s.clients.further()
}

// both does one thing while it runs commands in turn. These may fail then.
func (s *survivor) both(do func(), commands ...string) {
	s.t.Helper()
	stop := make(chan struct{})
	var running sync.WaitGroup
	defer running.Wait()
	defer close(stop)
	running.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				s.try(commands[rand.IntN(len(commands))])
				s.mixed++
			}
		}
	})
	do()
}

// inOrder fails the test unless the service is well and has logged only what it should.
func (s *survivor) inOrder() {
	s.t.Helper()
	s.answersAlike()
	if state := s.run("systemctl show --property=ActiveState,SubState,Result --value imdsfs; systemctl is-system-running"); state != "success\nactive\nrunning\nrunning" {
		s.t.Errorf("the unit is %q", state)
	}
	kit.Eventually(s.t, "systemd keeps no more than it has to", func() bool {
		n, err := strconv.Atoi(s.property("imdsfs", "NFileDescriptorStore"))
		return err == nil && n == storeMost
	})
	said := s.run("journalctl --no-pager --output=cat --unit=imdsfs | grep -E 'level=(warning|error|fatal)' || true")
	if said != "" {
		s.t.Errorf("the daemons say:\n%s", said)
	}
}

// nothingRuns fails the test unless all processes of the service have ended and no process of the machine hangs.
func (s *survivor) nothingRuns() {
	s.t.Helper()
	kit.Eventually(s.t, "no process of the service is left", func() bool {
		_, err := os.Stat(s.cgroup)
		return os.IsNotExist(err)
	})
	kit.Eventually(s.t, "no process hangs", func() bool {
		return s.run("grep -l '^State:.D' /proc/[0-9]*/status || true") == ""
	})
}
