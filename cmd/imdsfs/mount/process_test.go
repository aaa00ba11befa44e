package mount

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

const nobody = 65534

func TestAWaitForADaemonIsBounded(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	patient, cancel := context.WithTimeout(t.Context(), kit.Patience)
	defer cancel()
	for name, c := range map[string]struct {
		script string
		ctx    func() (context.Context, context.CancelFunc)
		want   string // "": ready
		said   string
	}{
		"ready": {script: `exec true; exit 1`, want: "the daemon ended before it was ready: somebody stopped it"},
		"dead":  {script: `kill -KILL $$`, want: "the daemon ended before it was ready: signal: killed"},
		"fails": {script: `echo "imdsfs: error: no" >&2; exit 3`, want: "exit status 32", said: "imdsfs: error: no\n"},
		"slow": {script: `exec sleep 1000`, want: errNotReady.Error(), ctx: func() (context.Context, context.CancelFunc) {
			return context.WithTimeoutCause(patient, time.Millisecond, errNotReady)
		}},
	} {
		log, err := os.Create(filepath.Join(t.TempDir(), "log"))
		must(t, err)
		null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
		must(t, err)
		d, err := startProcess("/bin/sh", "", []string{"-c", c.script}, null, log)
		must(t, err)
		ctx, stop := patient, context.CancelFunc(func() {})
		if c.ctx != nil {
			ctx, stop = c.ctx()
		}
		err = d.await(ctx)
		stop()
		if err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if syscall.Kill(d.cmd.Process.Pid, 0) == nil {
			t.Errorf("%s: the process is left", name)
		}
		if _, err := os.Stat(d.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %s is left", name, d.dir)
		}
		log.Seek(0, io.SeekStart)
		if text, _ := io.ReadAll(log); string(text) != c.said {
			t.Errorf("%s: said %s", name, text)
		}
		log.Close()
		null.Close()
	}
}

// Only directories of sockets that nobody has open are removed.
func TestWhatAKilledMountLeavesIsRemoved(t *testing.T) {
	kit.Require(t, os.Geteuid() == 0, "root, to be several users")
	temp := t.TempDir()
	elsewhere := t.TempDir()
	socket := func(dir string, alive bool) string {
		must(t, os.MkdirAll(dir, 0o700))
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/notify", Net: "unixgram"})
		must(t, err)
		t.Cleanup(func() { l.Close() })
		if !alive {
			l.Close() // which leaves the file
		}
		return dir
	}
	begin := temp + "/" + notifyDirPrefix
	left := socket(begin+"left", false)
	stays := []string{
		socket(begin+"alive", true), begin + "link", socket(begin+"public", false), socket(begin+"bobs", false),
		socket(temp+"/other", false), socket(elsewhere, false) + "/notify", begin + "new",
	}
	must(t, os.Symlink(elsewhere, begin+"link"), os.Chmod(begin+"public", 0o755), os.Chown(begin+"bobs", nobody, nobody), os.Mkdir(begin+"new", 0o700))
	at, err := os.Open(temp)
	must(t, err)
	defer at.Close()
	removeLeftovers(at)
	if _, err := os.Lstat(left); err == nil {
		t.Error("what is left over stays")
	}
	for _, path := range stays {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("gone: %v", err)
		}
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) { os.Exit(scratch.Run(m)) }
