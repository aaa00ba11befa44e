package handover

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// bad are messages of a daemon gone bad, with how many descriptors each comes.
var bad = []struct {
	text        string
	descriptors int
}{
	{"FDSTORE=1\nFDNAME=web.socket", 1}, // what somebody else handed over
	{"FDSTOREREMOVE=1\nFDNAME=web.socket", 0},
	{"FDSTORE=1\nFDNAME=kept-", 1},
	{"FDSTORE=1\nFDNAME=kept-keeper", 1},
	{"FDSTORE=1", 1},
	{"FDSTORE=1\nFDNAME=kept-a:kept-b", 1},
	{"FDSTORE=1\nFDNAME=kept-a=b", 1},
	{"FDSTORE=1\nFDNAME=kept-a b", 1},
	{"FDSTORE=1\nFDNAME=kept-\x1b[2J", 1},
	{"FDSTORE=1\nFDNAME=kept-\xff", 1},
	{"FDSTORE=1\nFDNAME=kept-" + strings.Repeat("a", 251), 1},
	{"FDSTORE=1\nFDNAME=kept-a", 0},
	{"FDSTORE=1\nFDNAME=kept-a", 2},
	{"FDSTORE=1\nFDNAME=kept-a", 200}, // more than are received: MSG_CTRUNC
	{"READY=1", 1},
	{"", 1},
	{"", 0},
	{strings.Repeat("x", maxMessage+1), 1}, // MSG_TRUNC
	{"FDSTORE=1\nFDNAME=kept-a\n" + strings.Repeat("\n", maxMessage), 1},
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestBadMessagesLeaveNothing(t *testing.T) {
	k := newTestKeeper(t, "hang")
	k.Hold(map[string][]*os.File{"web.socket": {file(t, "")}})
	defer k.held.clear()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	ours := os.NewFile(uintptr(pair[0]), "")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{}
	received := make(chan struct{})
	go func() {
		defer close(received)
		for k.receive(c, conn.(*net.UnixConn)) {
		}
	}()
	send := func(text string, descriptors int) {
		var rights []byte
		if descriptors > 0 {
			rights = unix.UnixRights(make([]int, descriptors)...)
		}
		if err := unix.Sendmsg(pair[1], []byte(text), rights, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	before := openDescriptors(t)
	for n := range 10_000 {
		m := bad[n%len(bad)]
		send(m.text, m.descriptors)
	}
	// To close or read a pipe might block, as with a file on a hung file system.
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	if err := unix.Sendmsg(pair[1], []byte("FDSTORE=1\nFDNAME=kept-pipe"), unix.UnixRights(pipe[0]), nil, 0); err != nil {
		t.Fatal(err)
	}
	unix.Close(pipe[0])
	unix.Close(pipe[1])
	send("READY=1", 0) // still received
	k.eventually("the last message is received", func() bool { return !c.ready().IsZero() })
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors are open, before there were %d", after, before)
	}
	if names := strings.Join(k.held.names, " "); names != "web.socket" {
		t.Errorf("held: %s", names)
	}
	if lines := strings.Split(k.log(), "\n"); len(lines) != maxBadLogged {
		t.Errorf("%d lines are logged:\n%s", len(lines), k.log())
	}
	if strings.ContainsFunc(k.log(), func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }) || !strings.Contains(k.log(), `"FDSTORE=1\nFDNAME=web.socket"`) {
		t.Errorf("the messages are not quoted:\n%s", k.log())
	}
	endReceive(conn)
	<-received
	conn.Close()
}

func TestComplaintsAreBounded(t *testing.T) {
	var c rateLimit
	now := time.Now()
	said := 0
	for range 1000 {
		if _, ok := c.next(now); ok {
			said++
		}
	}
	left, ok := c.next(now.Add(badPeriod))
	if said != maxBadLogged || !ok || left != 1000-maxBadLogged {
		t.Errorf("said %d; then %v, %d left out", said, ok, left)
	}
}

// A child of a dead daemon may go on sending.
func TestADeadDaemonIsNotHeardForEver(t *testing.T) {
	k := newTestKeeper(t, "hang")
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	ours := os.NewFile(uintptr(pair[0]), "")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	endReceive(conn)
	c := &child{}
	for n := range 2 * maxDrained {
		if err := unix.Sendmsg(pair[1], []byte("WATCHDOG=1"), nil, nil, 0); err != nil {
			t.Fatal(err)
		}
		if k.receive(c, conn.(*net.UnixConn)) == (n >= maxDrained) {
			t.Fatalf("message %d", n)
		}
		if n == maxDrained {
			break
		}
	}
}

// MountCommand has our rights, and gets nothing that a daemon has given us.
func TestTheMountHelperGetsNothingOfADaemon(t *testing.T) {
	// MountCommand keeps a and the mount; the daemon finds them, and drops the mount.
	k := newTestKeeper(t, "kept keep=a! keep=mount! exit=0! drop=mount ready die")
	k.MountCommand = k.Command
	k.run()
	const command, daemon = "kept , 0 from others", "; kept a mount, 0 from others"
	k.eventually("MountCommand runs again", func() bool { return strings.Count(k.noted(), ";") >= 2 })
	if got := k.noted(); !strings.HasPrefix(got, command+daemon+"; "+command) {
		t.Error(got)
	}
	k.cancel()
	<-k.ended
}

func FuzzHandle(f *testing.F) {
	for _, m := range bad {
		f.Add(m.text, byte(m.descriptors), false)
	}
	f.Add("FDSTORE=1\nFDNAME=kept-a\nFDPOLL=0", byte(1), false)
	f.Add("FDSTOREREMOVE=1\nFDNAME=kept-listen-[fd00__1%eth0]_80", byte(0), false)
	f.Add("READY=1\nSTATUS=well", byte(0), true)
	f.Fuzz(func(t *testing.T, text string, descriptors byte, cut bool) {
		k := &Keeper{Log: func(format string, args ...any) {
			if said := fmt.Sprintf(format, args...); len(said) > 1000 || strings.ContainsFunc(said, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("logged: %q", said)
			}
		}}
		defer k.held.clear()
		var fds []int
		for range descriptors % (maxRights + 1) {
			fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			fds = append(fds, fd)
		}
		k.handle(&child{}, text, fds, cut)
		for _, name := range k.held.names {
			if !IsFDName(name) || strings.ContainsAny(name, ":=\n ") || len(name) > 255 {
				t.Errorf("held under %q", name)
			}
		}
		open := 0
		for _, fd := range fds {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
				open++
			}
		}
		if open != len(k.held.fds) || cut && open > 0 {
			t.Errorf("%d of %d descriptors are open, %d are held", open, len(fds), len(k.held.fds))
		}
	})
}
