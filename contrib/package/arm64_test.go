package packaging

import (
	"os/exec"
	"strings"
	"testing"
)

// The test calls the emulator itself. Registering it with the kernel would change the machine.
func TestARM64BinaryRuns(t *testing.T) {
	t.Parallel()
	qemu := deps(t, "qemu-user") + "/usr/bin/qemu-aarch64"
	imdsfs := built(t, current, "imdsfs-linux-arm64")
	if out, err := exec.Command(qemu, imdsfs, "version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "imdsfs ") {
		t.Errorf("version: %v\n%s", err, out)
	}
	out, err := exec.Command(qemu, imdsfs, "check", repository+"/testdata/instances/web-1.toml").CombinedOutput()
	if err != nil || !strings.Contains(string(out), ": good\n") {
		t.Errorf("check: %v\n%s", err, out)
	}
	// Static, because otherwise it would need the libraries of an arm64 system.
	if out := output(t, "go", "version", "-m", imdsfs); !strings.Contains(out, "CGO_ENABLED=0") || !strings.Contains(out, "GOARCH=arm64") {
		t.Errorf("it is built with\n%s", out)
	}
}
