package packaging

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// The clone is in another directory, its path has another length, and it was made with another umask.
func TestTwoBuildsOfACommitAreTheSame(t *testing.T) {
	t.Parallel()
	kit.RequireCommand(t, "git", "go", "make", "sh")
	first := current
	if strings.TrimSpace(output(t, "git", "status", "--porcelain", "--untracked-files=no")) != "" {
		// The working tree is not committed.
		first = func() (string, error) { return build(clone(t), "first") }
	}
	one, err := first()
	if err != nil {
		t.Fatal(err)
	}
	two, err := build(clone(t), "second")
	if err != nil {
		t.Fatal(err)
	}
	sums := sumsOf(t, one)
	if again := sumsOf(t, two); !maps.Equal(sums, again) {
		t.Errorf("two builds of one commit are\n%v\n%v", sums, again)
	}
	if len(sums) != 6 {
		t.Errorf("a build makes not two binaries, two .deb and two .rpm, but %v", sums)
	}
}

// clone is a clean checkout of HEAD in a directory of its own.
func clone(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "somewhere", "else")
	top := strings.TrimSpace(output(t, "git", "rev-parse", "--show-toplevel"))
	output(t, "sh", "-c", `umask 077 && git clone --quiet "$1" "$2" && git -C "$2" checkout --quiet "$3"`, "sh", top, dir,
		strings.TrimSpace(output(t, "git", "rev-parse", "HEAD")))
	return dir
}

func sumsOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, e := range entries {
		sum := sha256.Sum256([]byte(kit.ReadFile(t, filepath.Join(dir, e.Name()))))
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sums[e.Name()] = fmt.Sprint(info.Mode(), " ", hex.EncodeToString(sum[:]))
	}
	return sums
}
