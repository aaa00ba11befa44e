package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/privilege"
	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

// scratchVariable makes the test binary one that uses a temporary directory below the value, and is killed.
const scratchVariable = "IMDSFS_TEST_SCRATCH"

func scratchMain() {
	parent := os.Getenv(scratchVariable)
	if parent == "" {
		return
	}
	dir, _, err := scratch.Make(parent)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(dir)
	select {}
}

// TestWhatAKilledTestLeavesIsRemoved: the next one takes away what is certainly left over, and nothing else.
func TestWhatAKilledTestLeavesIsRemoved(t *testing.T) {
	kit.Require(t, privilege.IsRoot(), "root, to mount")
	parent := t.TempDir()
	hold := func() (cmd *exec.Cmd, dir string) {
		cmd = exec.Command("/proc/self/exe")
		cmd.Env = []string{scratchVariable + "=" + parent, "GORACE=" + noRaceSleep}
		out, err := cmd.StdoutPipe()
		must(t, err, cmd.Start())
		t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
		lines := bufio.NewScanner(out)
		lines.Scan()
		return cmd, lines.Text()
	}
	_, alive := hold()
	killed, dead := hold()

	// What a test may leave: a program, mounts, one on the other, and links to what is not its own.
	outside := t.TempDir()
	must(t, os.WriteFile(outside+"/precious", nil, 0o600), os.MkdirAll(dead+"/a b/mnt", 0o755), os.Symlink(outside, dead+"/link"))
	for range 2 {
		must(t, unix.Mount(outside, dead+"/a b/mnt", "", unix.MS_BIND, ""))
	}
	t.Cleanup(func() {
		for unix.Unmount(dead+"/a b/mnt", unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
	})
	left := exec.Command("sleep", "1000")
	left.Env = []string{"TMPDIR=" + dead}
	must(t, left.Start())
	ended := make(chan error, 1)
	go func() { ended <- left.Wait() }()
	t.Cleanup(func() { left.Process.Kill() })

	// What others have there.
	stays := []string{alive, parent + "/imdsfs.0g00", parent + "/imdsfs-site-1", parent + "/imdsfs.f00d", parent + "/imdsfs.f1e5"}
	must(t, os.Mkdir(stays[1], 0o700), os.Mkdir(stays[2], 0o700), os.Symlink(outside, stays[3]),
		os.Mkdir(stays[4], 0o700), os.Chown(stays[4], nobodyID, nobodyID))

	killed.Process.Kill()
	killed.Wait()
	dir, remove, err := scratch.Make(parent)
	must(t, err)
	if _, err := os.Lstat(dead); err == nil {
		t.Errorf("left: %s with %v", dead, mountsBelow(dead))
	}
	kit.Eventually(t, "the program that was left has ended", func() bool { return len(ended) == 1 })
	for _, path := range append(stays, dir, outside+"/precious") {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("gone: %v", err)
		}
	}
	must(t, remove())
	if _, err := os.Lstat(dir); err == nil {
		t.Errorf("left: %s", dir)
	}
}

// TestTestsUseTheirOwnDirectory: whatever a test makes is below what the next run removes.
func TestTestsUseTheirOwnDirectory(t *testing.T) {
	if ok, err := filepath.Match("imdsfs.????", filepath.Base(os.TempDir())); !ok || err != nil {
		t.Errorf("temporary files go to %s", os.TempDir())
	}
}
