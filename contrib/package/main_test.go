// Package packaging tests the packages that `make package` builds: what is in them, that they are
// reproducible, and what installing, upgrading and purging them does to a machine with systemd.
//
// build_test.go builds them, machine_test.go is the machine, machine_init_test.go is how it comes up and
// goes away.
package packaging

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/scratch"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// TestMain makes the test binary the two processes behind a machine, see machine_init_test.go, or an adversary
// in it, see hostile_test.go.
func TestMain(m *testing.M) {
	stress.Main()
	switch os.Getenv(roleVariable) {
	case roleGuard:
		os.Exit(guard())
	case roleInit:
		os.Exit(becomeInit())
	case roleExchange:
		os.Exit(exchange(os.Getenv(dirVariable)))
	case roleLook:
		os.Exit(look(os.Getenv(dirVariable)))
	}
	flag.Parse()
	flag.Set("test.parallel", "4") // they wait most of the time, for what others do
	os.Exit(scratch.Run(m))
}

// patience is how long anything that has to happen may take on a loaded machine.
const patience = time.Minute

// repository is the root of the clone, from where go test runs these tests.
const repository = "../.."

// require skips the test on a laptop that cannot run it, and fails it where everything is required.
func require(t testing.TB, met bool, what string) {
	t.Helper()
	switch {
	case met:
	case os.Getenv("IMDSFS_REQUIRE_ALL") == "1":
		t.Fatalf("IMDSFS_REQUIRE_ALL=1, but this test needs %s", what)
	default:
		t.Skipf("needs %s", what)
	}
}

func requireCommand(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		require(t, err == nil, name)
	}
}

// deps is the absolute path of what .ci/deps has put there.
func deps(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(repository, ".deps", name))
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat(path)
	require(t, err == nil, path+" (run .ci/deps as root on Debian)")
	return path
}

// eventually polls until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("not in %v: %s", patience, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func readFile(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
