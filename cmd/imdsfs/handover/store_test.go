package handover

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// tell prints what Open finds: each file with its name and its content.
func tell() {
	s, others, err := Open()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var lines []string
	line := func(kind, name string, f *os.File) {
		flags, _ := unix.FcntlInt(f.Fd(), unix.F_GETFD, 0)
		text := make([]byte, 100)
		n, _ := f.Read(text)
		lines = append(lines, fmt.Sprintf("%s %s %q cloexec %v", kind, name, text[:n], flags&unix.FD_CLOEXEC != 0))
	}
	for name, f := range s.Inherited() {
		line("kept", name, f)
	}
	for name, files := range others {
		for _, f := range files {
			line("other", name, f)
		}
	}
	slices.Sort(lines)
	fmt.Println(strings.Join(lines, "\n"))
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", execVariable} {
		if os.Getenv(name) != "" {
			fmt.Println(name, "is passed on")
		}
	}
	fmt.Println(s.Durable(), s)
	os.Exit(0)
}

func file(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func childAs(t *testing.T, as string, environment ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), append(environment, role+"="+as, "GORACE=atexit_sleep_ms=0")...)
	cmd.Stderr = os.Stderr
	return cmd
}

func TestExecPassesWhatIsKept(t *testing.T) {
	cmd := childAs(t, "exec", notifyVariable+"=")
	cmd.Stdin = file(t, "hello")
	out, err := cmd.Output()
	want := "kept input \"hello\" cloexec true\nfalse exec in place (imdsfs upgrade); a kill is not survived\n"
	if string(out) != want || err != nil {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

// systemd passes files from descriptor 3 on, and names the process by its number.
func TestFilesOfSystemd(t *testing.T) {
	shell := `LISTEN_PID=$$ LISTEN_FDS=4 LISTEN_FDNAMES=kept-a:web.socket:kept-b:kept-b FDSTORE=64 NOTIFY_SOCKET=/run/nobody/listens exec "$0"`
	cmd := exec.Command("sh", "-c", shell, os.Args[0])
	cmd.Env = append(os.Environ(), role+"=open", "GORACE=atexit_sleep_ms=0")
	cmd.ExtraFiles = []*os.File{file(t, "A"), file(t, "W"), file(t, "B"), file(t, "again")}
	out, err := cmd.CombinedOutput()
	want := `kept a "A" cloexec true
kept b "B" cloexec true
other web.socket "W" cloexec true
true systemd's file descriptor store
`
	if string(out) != want || err != nil {
		t.Errorf("got\n%s%v\nwant\n%s", out, err, want)
	}
}

func TestFilesOfAnotherProcessAreNotTaken(t *testing.T) {
	cmd := childAs(t, "open", "LISTEN_PID=1", "LISTEN_FDS=1", "LISTEN_FDNAMES=kept-a", notifyVariable+"=", execVariable+"=1 a=3", keeperVariable+"=1")
	cmd.ExtraFiles = []*os.File{file(t, "A")}
	out, err := cmd.Output()
	if want := "\nfalse exec in place (imdsfs upgrade); a kill is not survived\n"; string(out) != want || err != nil {
		t.Errorf("got %q, %v; want %q", out, err, want)
	}
}

// listenAsSystemd receives what systemd would.
func listenAsSystemd(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv(notifyVariable, path)
	t.Setenv(storeVariable, "64")
	return conn
}

// nextMessage returns the next message, and the content of the file that came with it.
func nextMessage(t *testing.T, conn *net.UnixConn) (message, content string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	text, oob := make([]byte, 1000), make([]byte, 1000)
	n, oobn, _, _, err := conn.ReadMsgUnix(text, oob)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil || len(fds) != 1 {
			t.Fatalf("%v, %v", fds, err)
		}
		f := os.NewFile(uintptr(fds[0]), "")
		defer f.Close()
		all, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		content = string(all)
	}
	return string(text[:n]), content
}

func TestSystemdIsGivenWhatIsKept(t *testing.T) {
	conn := listenAsSystemd(t)
	s, _, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	expect := func(message, content string) {
		t.Helper()
		if gotMessage, gotContent := nextMessage(t, conn); gotMessage != message || gotContent != content {
			t.Errorf("systemd hears %q with %q, want %q with %q", gotMessage, gotContent, message, content)
		}
	}
	if err := s.Keep("a", file(t, "one")); err != nil {
		t.Fatal(err)
	}
	expect("FDSTORE=1\nFDNAME=kept-a\nFDPOLL=0", "one")
	if err := s.Keep("a", file(t, "two")); err != nil { // in the place of the first
		t.Fatal(err)
	}
	expect("FDSTOREREMOVE=1\nFDNAME=kept-a", "")
	expect("FDSTORE=1\nFDNAME=kept-a\nFDPOLL=0", "two")
	s.Drop("a")
	expect("FDSTOREREMOVE=1\nFDNAME=kept-a", "")
	s.Drop("a")
	if err := s.Notify("READY=1"); err != nil {
		t.Fatal(err)
	}
	expect("READY=1", "")
	for _, name := range []string{"a:b", "a=b", "a b", "a\nb"} {
		if s.Keep(name, file(t, "")) == nil {
			t.Errorf("%q is taken for a name", name)
		}
	}
}

// A systemd that reads no messages does not hang the daemon, and does not count as keeping anything.
func TestSystemdThatDoesNotListen(t *testing.T) {
	conn := listenAsSystemd(t)
	s, _, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	f := file(t, "")
	start := time.Now()
	for n := 0; ; n++ {
		if err := s.Keep(fmt.Sprint("n", n), f); err != nil {
			break
		}
		if n > 100_000 {
			t.Fatal("the queue has no end")
		}
	}
	if took := time.Since(start); took > time.Minute {
		t.Errorf("it took %v", took)
	}
	conn.Close()
	if err := s.Keep("late", f); err == nil {
		t.Error("kept by nobody")
	}
}
