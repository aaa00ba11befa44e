package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// shifted is root of the containers that have ids of their own, as the host sees it.
const shifted = 100_000

// A container is a place with mounts of its own, where meta-data is at dir.
type container struct {
	dir string
	// sh runs a line of shell as the container's root. One that is not asked for more prints nothing
	// but the output.
	sh func(line string) *exec.Cmd
}

func (c container) try(line string) (string, error) {
	out, err := c.sh(line).CombinedOutput()
	return string(out), err
}

func (c container) expect(t *testing.T, line, want string) {
	t.Helper()
	if got, err := c.try("cd " + c.dir + " && " + line); got != want || err != nil {
		t.Errorf("in the container, %s: %q, %v; want %q", line, got, err, want)
	}
}

// TestContainersSeeChangesAtOnce binds meta-data, and nothing above it, into each kind of container.
func TestContainersSeeChangesAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		enter func(s *site) container
		// owner of the files as the container sees it, and whether its root reads what is for root.
		owner   int
		secrets bool
	}{
		"mount namespace":               {mountNamespace, 0, true},
		"user namespace of root":        {userNamespaceOfRoot, 0, true},
		"user namespace of nobody":      {userNamespaceOfNobody, 65534, false},
		"idmapped mount":                {idmapped, 0, true},
		"other ids without an idmap":    {otherIDs, 65534, false},
		"podman":                        {podman, 0, true},
		"podman with a user namespace":  {podmanWithUserNamespace, 65534, false},
		"podman with an idmapped mount": {podmanIdmapped, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			text := func(values string) string {
				return least("", values) + fmt.Sprintf(shortLived, "2099-01-01T00:00:00Z")
			}
			s := newSite(t, text("tier = \"gold\"\ncolour = \"blue\""))
			d := s.start()
			in := c.enter(s)

			in.expect(t, "cat tier", "gold")
			in.expect(t, "ls | grep -E 'tier|colour|shape'", "colour\ntier\n")
			in.expect(t, "cat shape 2>/dev/null || echo none", "none\n")
			in.expect(t, "stat -c '%a %u %g' tier iam/security-credentials/web .",
				strings.ReplaceAll("444 ID ID\n400 ID ID\n555 ID ID\n", "ID", fmt.Sprint(c.owner)))
			const role = "cat iam/security-credentials/web"
			if got, err := in.try("cd " + in.dir + " && " + role); (err == nil) != c.secrets || strings.Contains(got, "hunter2") != c.secrets {
				t.Errorf("credentials: %q, %v", got, err)
			}
			if got, err := in.try("cd " + in.dir + " && : >tier"); err == nil {
				t.Errorf("it can write: %q", got)
			}
			if got, err := in.try("ls " + in.dir + "/../latest/dynamic " + in.dir + "/../dynamic"); err == nil {
				t.Errorf("it sees more than it was given: %q", got)
			}

			d.reload(s.file, text("tier = \"silver plated\"\nshape = \"round\""), "msg=reloaded")
			in.expect(t, "cat tier", "silver plated")
			in.expect(t, "ls | grep -E 'tier|colour|shape'", "shape\ntier\n")
			in.expect(t, "cat colour 2>/dev/null || echo none", "none\n")
			in.expect(t, "cat shape", "round")

			s.end(d)
			if got, err := in.try("cd " + in.dir + " && cat tier"); err == nil {
				t.Errorf("after the end the container reads %q", got)
			}
		})
	}
}

func mountNamespace(s *site) container { return s.enclose("unshare", "-m") }

func userNamespaceOfRoot(s *site) container { return s.enclose("unshare", "-Urm") }

func userNamespaceOfNobody(s *site) container {
	return s.enclose("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "unshare", "-Urm")
}

// enclose binds meta-data from inside the namespaces that a command makes.
func (s *site) enclose(command ...string) container {
	s.t.Helper()
	for _, tool := range []string{"unshare", "nsenter", "setpriv"} {
		kit.RequireCommand(s.t, tool)
	}
	dir := s.mustMkdir("inside")
	pid := s.holder(append(command, "sh", "-c", `mount --bind "$1" "$2" && exec sleep 1000`, "sh", s.mount+"/latest/meta-data", dir)...)
	return container{dir, func(line string) *exec.Cmd {
		args := []string{"-t", fmt.Sprint(pid), "-m"}
		if len(command) > 2 || command[1] != "-m" {
			args = append(args, "-U", "-S", "0", "-G", "0")
		}
		return exec.Command("nsenter", append(args, "sh", "-c", line)...)
	}}
}

// holder runs a command that ends in sleep, and returns when it is there, with all that it was to do before.
func (s *site) holder(command ...string) (pid int) {
	s.t.Helper()
	log := &syncBuffer{}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stderr = log
	s.background(cmd)
	kit.Eventually(s.t, strings.Join(command, " "), func() bool {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		if log.String() != "" {
			s.t.Fatal(log.String())
		}
		return string(name) == "sleep\n"
	})
	return cmd.Process.Pid
}

// idHolder is a process with a user namespace whose root is shifted on the host.
func (s *site) idHolder() (pid int) {
	s.t.Helper()
	cmd := exec.Command("sleep", "1000")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: shifted, Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	return s.background(cmd).Process.Pid
}

// bindIdmapped binds meta-data with the ids of a process's user namespace.
func (s *site) bindIdmapped(pid int) (dir string) {
	s.t.Helper()
	dir = s.mustMkdir("idmapped")
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	must(s.t, err)
	defer ns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, s.mount+"/latest/meta-data", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(s.t, err)
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns.Fd())})
	kit.Require(s.t, !errors.Is(err, unix.EINVAL), "a kernel that maps ids of FUSE mounts (6.12)")
	must(s.t, err, unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH))
	s.t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func idmapped(s *site) container {
	pid := s.idHolder()
	dir := s.bindIdmapped(pid)
	var st unix.Stat_t
	if err := unix.Stat(dir+"/iam/security-credentials/web", &st); err != nil || st.Uid != shifted || st.Gid != shifted {
		s.t.Errorf("the host sees the owner %d:%d, %v", st.Uid, st.Gid, err)
	}
	return s.asRootOf(pid, dir)
}

func otherIDs(s *site) container {
	return s.asRootOf(s.idHolder(), s.bind(s.mount+"/latest/meta-data"))
}

func (s *site) asRootOf(pid int, dir string) container {
	kit.RequireCommand(s.t, "nsenter")
	return container{dir, func(line string) *exec.Cmd {
		return exec.Command("nsenter", "-t", fmt.Sprint(pid), "-U", "-S", "0", "-G", "0", "unshare", "-m", "sh", "-c", line)
	}}
}

func podman(s *site) container { return s.podman(s.mount + "/latest/meta-data") }

var shiftFlags = []string{"--uidmap", fmt.Sprintf("0:%d:65536", shifted), "--gidmap", fmt.Sprintf("0:%d:65536", shifted)}

func podmanWithUserNamespace(s *site) container {
	return s.podman(s.mount+"/latest/meta-data", shiftFlags...)
}

func podmanIdmapped(s *site) container { return s.podman(s.bindIdmapped(s.idHolder()), shiftFlags...) }

// podman runs a container of busybox alone, without a network, and leaves nothing outside of the site.
// Debian's podman and what it needs are unpacked by .ci/deps, because to install it starts services.
func (s *site) podman(from string, flags ...string) container {
	s.t.Helper()
	deps, err := filepath.Abs("../../.deps")
	must(s.t, err)
	_, err = os.Stat(deps + "/podman/usr/bin/podman")
	kit.Require(s.t, err == nil, "podman from .ci/deps")
	libs, err := filepath.Glob(deps + "/*/usr/lib/*-linux-gnu")
	must(s.t, err)

	rootfs := s.mustMkdir("rootfs")
	for _, dir := range []string{"bin", "metadata", "proc", "sys", "dev", "etc", "run", "tmp"} {
		must(s.t, os.Chown(s.mustMkdir("rootfs/"+dir), shifted, shifted)) // its root makes files there
	}
	busybox, err := os.ReadFile(deps + "/busybox-static/bin/busybox")
	must(s.t, err, os.WriteFile(rootfs+"/bin/busybox", busybox, 0o755))
	for _, tool := range []string{"sh", "cat", "ls", "grep", "stat", "sleep"} {
		must(s.t, os.Symlink("busybox", rootfs+"/bin/"+tool))
	}
	config := s.base + "/containers.conf"
	must(s.t, os.WriteFile(config, []byte(fmt.Sprintf(`
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
lock_type = "file"
[network]
network_config_dir = %q
`, s.mustMkdir("podman/network"))), 0o644))
	base := []string{
		"--root", s.mustMkdir("podman/storage"), "--runroot", s.mustMkdir("podman/run"), "--tmpdir", s.mustMkdir("podman/tmp"),
		"--storage-driver", "vfs", "--conmon", deps + "/conmon/usr/bin/conmon",
		"--runtime", deps + "/runc/usr/sbin/runc", "--runtime-flag", "root=" + s.mustMkdir("podman/runc"),
	}
	command := func(args ...string) *exec.Cmd {
		cmd := exec.Command(deps+"/podman/usr/bin/podman", append(append([]string{}, base...), args...)...)
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + s.base, "CONTAINERS_CONF=" + config, "LD_LIBRARY_PATH=" + strings.Join(libs, ":")}
		return cmd
	}
	run := func(args ...string) {
		s.t.Helper()
		if out, err := command(args...).CombinedOutput(); err != nil {
			s.t.Fatalf("podman %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	cgroup := filepath.Base(s.base)
	s.t.Cleanup(func() { removeCgroups(s.t, cgroup) })
	s.t.Cleanup(func() { run("rm", "-f", "-t", "0", "-a") })
	args := []string{
		"run", "-d", "--name", "imdsfs", "--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024",
		"--cgroups", "no-conmon", "--cgroup-parent", "/" + cgroup, "--log-driver", "none", "--volume", from + ":/metadata:ro",
	}
	run(append(append(args, flags...), "--rootfs", rootfs, "/bin/sleep", "1000")...)
	return container{"/metadata", func(line string) *exec.Cmd { return command("exec", "imdsfs", "/bin/sh", "-c", line) }}
}

// removeCgroups removes what podman put its containers in; the containers' own are gone.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} { // version 2; 1
		found, _ := filepath.Glob(root + name)
		for _, dir := range found {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	}
}
