package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// badVariable makes this program a compromised daemon behind a keeper. Its value is a directory for its notes.
const badVariable = "IMDSFS_ATTACK_BAD"

// beBadDaemon sends everything to the keeper that it should not send, and exits. The next one behaves, and notes what it
// was given.
func beBadDaemon() int {
	dir := os.Getenv(badVariable)
	socket, err := strconv.Atoi(os.Getenv("IMDSFS_KEEPER_SOCKET"))
	if err != nil {
		return 1
	}
	unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Usec: 200_000})
	say := func(text string, fds ...int) {
		var rights []byte
		if len(fds) > 0 {
			rights = unix.UnixRights(fds...)
		}
		unix.Sendmsg(socket, []byte(text), rights, nil, unix.MSG_NOSIGNAL)
	}
	if _, err := os.Stat(dir + "/misbehaved"); err == nil {
		note := fmt.Sprintf("LISTEN_FDS=%s\nLISTEN_FDNAMES=%s\n", os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES"))
		os.WriteFile(dir+"/next", []byte(note), 0o644)
		say("READY=1\nFDSTORE=1")
		time.Sleep(time.Minute) // until the keeper is stopped
		return 0
	}
	null, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		return 1
	}
	say("READY=1")
	for _, name := range []string{"a:b", "a:b:c:d", "a b", "a=b", "", ":", "::::", strings.Repeat("x", 3000), "x\x00y", "x\x1b[2Jy", "kept-\xff\xfe", "kept-" + strings.Repeat(":", 200), "../../etc/passwd", "LISTEN_PID", "\x7f", "ünï"} {
		say("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", null)
		say("FDSTORE=1\nFDNAME=" + name) // without a descriptor
		say("FDSTOREREMOVE=1\nFDNAME=" + name)
		say("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", null, null, null, null, null, null, null, null)
	}
	say("FDSTORE=1\nFDNAME=a\nFDNAME=b:c\nFDNAME=kept-d\x00", null)
	say(strings.Repeat("=", 4096))
	say(strings.Repeat("A=B\n", 20000), null)
	say("\x00\x01\x02\xff\xfe", null)
	say("WATCHDOG_USEC=-1\nMAINPID=1\nSTOPPING=1\nERRNO=99999999999999999999\nEXTEND_TIMEOUT_USEC=18446744073709551615")
	for i := range 2000 {
		say("FDSTORE=1\nFDNAME=kept-many-"+strconv.Itoa(i), null)
	}
	os.WriteFile(dir+"/misbehaved", nil, 0o644)
	return 1
}
