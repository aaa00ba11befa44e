// Package packaging tests the packages that `make package` builds: what is in them, that they are
// reproducible, and what installing, upgrading and purging them does to a machine with systemd.
//
// build_test.go builds them, machine_test.go is the machine, machine_init_test.go starts and ends it:
//
//	make package ──▶ .deb, .rpm ──▶ machine (a root of Debian, namespaces, systemd) ──▶ dpkg, systemctl ──▶ checks
package packaging

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// TestMain makes the test binary one of the two processes behind a machine, see machine_init_test.go, or an adversary in
// it, see hostile_test.go.
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
	flag.Set("test.parallel", "4") // the tests mostly wait for other processes
	os.Exit(scratch.Run(m))
}

// patience is how long anything that has to happen may take on a loaded machine.
const patience = kit.Patience

// repository is the root of the clone, from where go test runs these tests.
const repository = "../.."

// deps is the absolute path of a dependency that .ci/deps has installed.
func deps(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(repository, ".deps", name))
	if err != nil {
		t.Fatal(err)
	}
	_, err = os.Stat(path)
	kit.Require(t, err == nil, path+" (run .ci/deps as root on Debian)")
	return path
}
