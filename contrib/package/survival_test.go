package packaging

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/stress"
)

const (
	stressed   = "/latest/meta-data/tags/instance"
	configPath = "/etc/imdsfs/imdsfs.toml"
	dropInPath = "/etc/systemd/system/imdsfs.service.d/test.conf"
	boardPath  = "/run/board"
	readerPath = "/usr/local/bin/reader"

	manyKills = 100
	fewKills  = 10 // within some seconds, as when memory is short
)

// stressFile is an instance file with these versions of the value and of the names next to it.
func stressFile(value, names int64) string {
	var text strings.Builder
	fmt.Fprintf(&text, `[server]
listen = ["link-local"]
add-addresses = true
[meta-data]
instance-id = "i-0a1b2c3d4e5f67890"
[metadata-options]
instance-metadata-tags = "enabled"
[tags]
value = %q
`, stress.Payload(value))
	all := stress.Names(names)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, "%s = %q\n", name, all[name])
	}
	return text.String()
}

// change replaces the instance file.
func (m *machine) change(value, names int64) error {
	file := m.path(configPath)
	if err := os.WriteFile(file+".new", []byte(stressFile(value, names)), 0o644); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// places are where readers read: the mount, a bind mount in a mount namespace of root, one that an unprivileged user made
// in a user namespace, and a container.
func (m *machine) places(pause time.Duration) []stress.Place {
	m.t.Helper()
	m.run("install -m 755 " + m.put("/proc/self/exe") + " " + readerPath)
	const bind = `mount --bind /run/metadata /mnt && exec "$@"`
	enter := func(name, mount string, by ...string) stress.Place {
		return stress.Place{Name: name, Dir: mount + stressed, Command: func(variable string, args ...string) *exec.Cmd {
			return m.command(context.Background(), "env", slices.Concat([]string{variable, "GORACE=atexit_sleep_ms=0", "GOMAXPROCS=1"}, by, []string{readerPath}, args)...)
		}}
	}
	places := []stress.Place{
		enter("mount", "/run/metadata"),
		enter("namespace", "/mnt", "unshare", "--mount", "--propagation", "private", "sh", "-c", bind, "sh"),
		enter("user", "/mnt", "setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm", "sh", "-c", bind, "sh"),
		m.container(),
	}
	for i := range places {
		places[i].Board, places[i].Pause, places[i].Roles = boardPath, pause, []string{"open", "held", "list"}
	}
	return places
}

// TestServiceSurvives kills, restarts, upgrades and stops the packaged service while its file changes all the time. Readers
// of all kinds may wait, but must not notice anything else. HTTP clients are never refused, and fail only if the service
// was killed while it answered them. With IMDSFS_STRESS there are more handovers, and the readers pause less.
func TestServiceSurvives(t *testing.T) {
	t.Parallel()
	handovers, packages, pause := 8, 4, 20*time.Millisecond
	if os.Getenv("IMDSFS_STRESS") != "" {
		handovers, packages, pause = 20, 20, time.Millisecond
	}
	newer := built(t, newerDeb, "imdsfs_*_"+runtime.GOARCH+".deb")
	older := built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")
	m := installed(t)
	debs := []string{m.put(newer), m.put(older)}
	m.write(configPath, stressFile(0, 0))
	m.run("systemctl start imdsfs")
	s := newSurvivor(m)
	stress.Run(t, stress.Target{
		Places: m.places(pause), Board: m.path(boardPath), Change: m.change, Wait: s.clients.reach, Least: 100,
		// The dropped caches include the machine's programs and libraries, so programs start slowly then.
		DropEvery: time.Second,
		Meanwhile: func() {
			for range handovers {
				s.handOver("systemctl restart imdsfs")
				s.handOver("imdsfs upgrade")
			}
			for i := range packages {
				s.handOver("dpkg --force-downgrade -i " + debs[i%len(debs)])
			}
			s.lap(fmt.Sprintf("%d handovers", s.handovers))
			for range fewKills {
				s.kill(s.working())
			}
			s.lap(fmt.Sprintf("%d kills", s.kills))

			s.dropIn("[Unit]\nStartLimitIntervalSec=0\n[Service]\nWatchdogSec=4\n")
			for s.kills < manyKills-fewKills {
				s.kill(s.any())
			}
			s.lap(fmt.Sprintf("%d kills", s.kills))
			s.both(func() {
				for s.kills < manyKills {
					s.kill(s.any())
				}
			}, "systemctl restart imdsfs", "imdsfs upgrade", "systemctl reload imdsfs", "systemctl daemon-reload")
			s.lap(fmt.Sprintf("%d kills and %d handovers at the same time", fewKills, s.mixed))
			s.crash()
			s.lap("a crash")
			s.clients.end()
			s.hang()
			s.lap("a hang")
		},
	})
	s.inOrder()
	m.run("systemctl stop imdsfs")
	m.nothingServed()
	s.nothingRuns()
}
