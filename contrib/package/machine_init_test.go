package packaging

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A machine is two processes besides the test. The guard makes the cgroup and starts PID 1. When the test closes the
// guard's standard input, or dies in any way, the guard kills the whole machine and removes what it made. PID 1 first
// builds its root inside its namespaces, then becomes systemd.
const (
	roleVariable = "IMDSFS_TEST_ROLE"
	roleGuard    = "guard"
	roleInit     = "init"
	roleExchange = "exchange"
	roleLook     = "look"
	rootVariable = "IMDSFS_TEST_ROOT" // of the machine, read-only
	dirVariable  = "IMDSFS_TEST_DIR"  // an empty directory to mount on, or the target of an adversary
	// holdVariable makes TestHoldAMachine hold a machine.
	holdVariable = "IMDSFS_TEST_HOLD"
)

// guard prints a line with PID 1's number and the machine's cgroup, and waits for the end.
func guard() int {
	if err := guardMachine(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func guardMachine() (err error) {
	hierarchy, err := unifiedHierarchy()
	if err != nil {
		return err
	}
	cgroup := filepath.Join(hierarchy, fmt.Sprintf("imdsfs-test-%d", os.Getpid()))
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeCgroup(cgroup)) }()
	dir, err := os.MkdirTemp("", "imdsfs-machine-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()

	group, err := os.Open(cgroup)
	if err != nil {
		return err
	}
	defer group.Close()
	init := exec.Command("/proc/self/exe")
	init.Env = append(os.Environ(), roleVariable+"="+roleInit, dirVariable+"="+dir)
	init.Stderr = os.Stderr
	init.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Setsid:     true,
		// The signal comes when the thread that started PID 1 ends.
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true,
		CgroupFD:    int(group.Fd()),
	}
	runtime.LockOSThread()
	if err := init.Start(); err != nil {
		return fmt.Errorf("start PID 1: %w", err)
	}
	fmt.Println(init.Process.Pid, cgroup)
	io.Copy(io.Discard, os.Stdin)
	if err := abortMounts(init.Process.Pid); err != nil {
		fmt.Fprintln(os.Stderr, "end the machine's mounts:", err)
	}
	if err := init.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	init.Wait()
	return nil
}

// abortMounts ends the connections of the FUSE mounts in a process's mount namespace. If a reader holds a lock while a
// daemon notifies the kernel of a change, and both are killed at once, the kernel lets them wait for each other for ever,
// and with them the whole machine.
func abortMounts(pid int) error {
	dir := fmt.Sprintf("/proc/%d", pid)
	mounts, err := os.ReadFile(dir + "/mountinfo")
	if err != nil {
		return nil // it has ended
	}
	ns, err := os.Open(dir + "/ns/mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread stays in the namespace
		err := errors.Join(unix.Unshare(unix.CLONE_FS), unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS))
		for line := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(line); err == nil && slices.Contains(fields[6:], "fuse.imdsfs") {
				unix.Unmount(fields[4], unix.MNT_FORCE|unix.UMOUNT_NOFOLLOW) // EBUSY comes after the end of the connection
			}
		}
		result <- err
	}()
	return <-result
}

// unifiedHierarchy is where cgroup2 is mounted; its controllers are not needed.
func unifiedHierarchy() (string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); slices.Contains(fields[6:], "cgroup2") {
			return fields[4], nil
		}
	}
	return "", errors.New("cgroup2 is mounted nowhere")
}

// removeCgroup kills what is left in the cgroup, such as an nsenter, which is not in the machine's PID namespace. Then it
// removes the cgroup and everything below.
func removeCgroup(dir string) error {
	if err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0); err != nil {
		return err
	}
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		var dirs []string
		filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, d := range slices.Backward(dirs) {
			err = unix.Rmdir(d)
		}
		if err == nil {
			return nil
		}
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}

// becomeInit returns only if it fails.
func becomeInit() int {
	runtime.LockOSThread() // namespaces and capabilities belong to a thread, and this one calls exec
	if err := buildRoot(os.Getenv(rootVariable), os.Getenv(dirVariable)); err != nil {
		fmt.Fprintln(os.Stderr, "PID 1:", err)
		return 1
	}
	err := unix.Exec("/lib/systemd/systemd", []string{"/lib/systemd/systemd", "--system", "--unit=multi-user.target", "--show-status=no"},
		[]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "container=imdsfs-test"})
	fmt.Fprintln(os.Stderr, "PID 1: exec systemd:", err)
	return 1
}

// masked are units that would change the host's kernel, or that timers start.
var masked = []string{
	"apt-daily-upgrade.timer", "apt-daily.timer", "dev-hugepages.mount", "dpkg-db-backup.timer", "e2scrub_all.timer",
	"sys-fs-fuse-connections.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "systemd-journald-audit.socket",
	"systemd-modules-load.service", "systemd-sysctl.service", "systemd-tmpfiles-clean.timer",
}

// notHeld are the capabilities with which the machine could change the host: its modules, clock, log and audit.
var notHeld = []uintptr{
	unix.CAP_SYS_MODULE, unix.CAP_SYS_TIME, unix.CAP_SYS_RAWIO, unix.CAP_SYSLOG, unix.CAP_WAKE_ALARM, unix.CAP_BLOCK_SUSPEND,
	unix.CAP_AUDIT_CONTROL, unix.CAP_AUDIT_READ, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
}

type device struct {
	name         string
	major, minor uint32
}

var devices = []device{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}, {"fuse", 10, 229}}

// buildRoot makes an overlay over lower, in memory and mounted on dir, the root of the calling process.
func buildRoot(lower, dir string) error {
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare the cgroup namespace: %w", err)
	}
	root := filepath.Join(dir, "root")
	var err error
	do := func(what string, e error) {
		if e != nil && err == nil {
			err = fmt.Errorf("%s: %w", what, e)
		}
	}
	mount := func(source, target, fstype string, flags uintptr, data string) {
		do("mount "+target, unix.Mount(source, target, fstype, flags, data))
	}
	in := func(name string) string { return filepath.Join(root, name) }

	mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	mount("tmpfs", dir, "tmpfs", 0, "mode=0755")
	for _, name := range []string{"root", "upper", "work"} {
		do("mkdir", os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	mount("overlay", root, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir))
	mount("proc", in("proc"), "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	// Most of /proc/sys belongs to the host.
	mount(in("proc/sys"), in("proc/sys"), "", unix.MS_BIND, "")
	mount("", in("proc/sys"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, "")
	mount("sysfs", in("sys"), "sysfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	mount("cgroup2", in("sys/fs/cgroup"), "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	mount("tmpfs", in("run"), "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755")
	mount("tmpfs", in("dev"), "tmpfs", unix.MS_NOSUID, "mode=0755")
	for _, d := range devices {
		do("mknod", unix.Mknod(in("dev/"+d.name), unix.S_IFCHR|0o666, int(unix.Mkdev(d.major, d.minor))))
		do("chmod", os.Chmod(in("dev/"+d.name), 0o666))
	}
	do("mkdir", os.Mkdir(in("dev/pts"), 0o755))
	do("mkdir", os.Mkdir(in("dev/shm"), 0o755))
	mount("devpts", in("dev/pts"), "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5")
	do("symlink", os.Symlink("pts/ptmx", in("dev/ptmx")))
	do("symlink", os.Symlink("/proc/self/fd", in("dev/fd")))

	do("write", os.WriteFile(in("etc/machine-id"), []byte(machineID+"\n"), 0o444))
	do("write", os.WriteFile(in("etc/hostname"), []byte("machine\n"), 0o644))
	do("write", os.WriteFile(in("etc/hosts"), []byte("127.0.0.1 localhost machine\n"), 0o644))
	for _, unit := range masked {
		do("mask", os.Symlink("/dev/null", in("etc/systemd/system/"+unit)))
	}
	do("chdir", os.Chdir(root))
	do("pivot_root", unix.PivotRoot(".", "."))
	do("unmount the host's root", unix.Unmount(".", unix.MNT_DETACH))
	do("chdir", os.Chdir("/"))
	for _, c := range notHeld {
		do("drop capability "+strconv.Itoa(int(c)), unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0))
	}
	return err
}
