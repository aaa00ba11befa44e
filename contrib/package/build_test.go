package packaging

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// newerVersion is later than any that `git describe` prints.
const newerVersion = "v9999.0.0"

var (
	builds   = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "imdsfs-packages-") })
	current  = sync.OnceValues(func() (string, error) { return build(repository, "current") })
	newerDeb = sync.OnceValues(func() (string, error) {
		return build(repository, "newer", "VERSION="+newerVersion, "ARCHES="+runtime.GOARCH, "FORMATS=deb")
	})
	newerRPM = sync.OnceValues(func() (string, error) {
		return build(repository, "newer-rpm", "VERSION="+newerVersion, "ARCHES="+runtime.GOARCH, "FORMATS=rpm")
	})
)

// build runs `make package` in a clone, into a directory of the given name that is removed after the tests.
func build(clone, name string, variables ...string) (string, error) {
	dir, err := builds()
	if err != nil {
		return "", err
	}
	// go test caches a result until a file changes that the test has read. It does not know what make has read.
	for _, sources := range []string{"cmd", "contrib", "fs", "imds", "source", "testdata/instances"} {
		filepath.WalkDir(filepath.Join(clone, sources), func(string, fs.DirEntry, error) error { return nil })
	}
	dist := filepath.Join(dir, name)
	cmd := exec.Command("make", append([]string{"--no-print-directory", "package", "DIST=" + dist}, variables...)...)
	cmd.Dir = clone
	// If make runs the tests, its variables would be passed on.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "MAKE") || strings.HasPrefix(v, "MFLAGS=") || strings.HasPrefix(v, "SOURCE_DATE_EPOCH=")
	})
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make package in %s: %w\n%s", clone, err, out)
	}
	return dist, nil
}

// built is the only file of a build that matches the pattern.
func built(t testing.TB, build func() (string, error), pattern string) string {
	t.Helper()
	kit.RequireCommand(t, "git", "go", "make")
	dist, err := build()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dist, pattern))
	if err != nil || len(files) != 1 {
		t.Fatalf("%s in %s is %q, %v", pattern, dist, files, err)
	}
	return files[0]
}
