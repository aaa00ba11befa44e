package daemon

import (
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestRetriesWaitLongerEachTime(t *testing.T) {
	for name, c := range map[string]struct {
		text, step string
		want       time.Duration
	}{
		"nothing":           {"", "", 0},
		"none":              {"0", "", 0},
		"the first":         {"1", "", time.Second},
		"the third":         {"3\n", "", 4 * time.Second},
		"the last":          {"5", "", 16 * time.Second},
		"more than that":    {"999", "", 16 * time.Second},
		"less than none":    {"-3", "", 0},
		"nonsense":          {"zwei", "", 0},
		"far too much":      {"99999999999999999999", "", 16 * time.Second},
		"another step":      {"2", "10ms", 20 * time.Millisecond},
		"a step too long":   {"5", "1h", maxRetryWait},
		"a step that is no": {"2", "soon", 2 * time.Second},
	} {
		dir := t.TempDir()
		must(t, os.WriteFile(dir+"/"+refusedName, []byte(c.text), 0o600))
		t.Setenv(retryVariable, c.step)
		turn := OpenTurn(dir, os.Geteuid())
		if got := turn.Wait(); got != c.want {
			t.Errorf("%s: %v instead of %v", name, got, c.want)
		}
		turn.Forget()
		if _, err := os.Lstat(dir + "/" + refusedName); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: it is not forgotten: %v", name, err)
		}
		turn.Close()
	}
}

// The directory is the daemon's: whatever lies there, root neither follows nor waits.
func TestAnOddCountOfRefusalsIsNone(t *testing.T) {
	secret := t.TempDir() + "/secret"
	must(t, os.WriteFile(secret, []byte("4"), 0o600))
	for name, lay := range map[string]func(path string) error{
		"a symbolic link": func(path string) error { return os.Symlink(secret, path) },
		"a FIFO":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		dir := t.TempDir()
		must(t, lay(dir+"/"+refusedName))
		turn := OpenTurn(dir, os.Geteuid())
		if got := turn.Wait(); got != 0 {
			t.Errorf("%s: %v", name, got)
		}
		turn.Forget()
		turn.Close()
	}
	if text := kit.ReadFile(t, secret); text != "4" {
		t.Errorf("the link's target holds %q", text)
	}
	open := t.TempDir()
	must(t, os.WriteFile(open+"/"+refusedName, []byte("4"), 0o600), os.Chmod(open, 0o777))
	for _, dir := range []string{open, open + "/missing"} {
		turn := OpenTurn(dir, os.Geteuid())
		if turn.Refusals != 0 {
			t.Errorf("%s: %d", dir, turn.Refusals)
		}
		turn.Forget()
		turn.Close()
	}
}
