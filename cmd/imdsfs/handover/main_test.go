package handover

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/scratch"
)

const (
	// role makes the test binary a process that a test of Store starts.
	role = "IMDSFS_TEST_ROLE"
	// script makes the test binary a daemon that does these things: words, in order.
	script = "IMDSFS_TEST_SCRIPT"
)

func TestMain(m *testing.M) {
	if words := os.Getenv(script); words != "" {
		scriptedDaemon(strings.Fields(words))
	}
	switch os.Getenv(role) {
	case "exec":
		execWithStdin()
	case "after exec":
		os.Stdin.Close()
		tell()
	case "open":
		tell()
	}
	os.Exit(scratch.Run(m))
}

// execWithStdin keeps standard input, and becomes the next role.
func execWithStdin() {
	os.Setenv(role, "after exec")
	s, _, err := Open()
	if err == nil {
		err = s.Keep("input", os.Stdin)
	}
	if err == nil {
		err = s.Keep("dropped", os.Stdout)
	}
	if err == nil {
		s.Drop("dropped")
		err = s.Exec(os.Args[0], os.Args)
	}
	fmt.Println(err)
	os.Exit(1)
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}
