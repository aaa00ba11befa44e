package patient

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const childRole = "IMDSFS_TEST_CHILD" // set: wait for a second

func TestMain(m *testing.M) {
	if os.Getenv(childRole) != "" {
		fmt.Println("begun")
		<-After(time.Second, nil)
		fmt.Println("over")
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// TestATimeWithoutAProcessorDoesNotCount: the process that somebody waits for got none either.
func TestATimeWithoutAProcessorDoesNotCount(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{childRole + "=wait"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	lines := bufio.NewScanner(out)
	lines.Scan()
	kit.Freeze(t, cmd.Process.Pid)
	<-time.After(1500 * time.Millisecond)
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "over" {
		t.Errorf("it says %q", lines.Text())
	}
	if took := time.Since(start); took < 500*time.Millisecond {
		t.Errorf("over %v after a second without a processor", took)
	}
}
