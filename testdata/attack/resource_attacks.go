package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var resourceAttacks = []attack{
	{name: "slow headers", by: hog, tries: "300 connections that stop in the middle of a head", holds: "others are answered within 2 s; each is closed within 5 s and an eighth", alone: true, slow: true, run: func(w *world) error {
		conns, err := hold(server, door, 300, "GET /latest/ HTTP/1.1\r\nHost: loc")
		defer closeAll(conns)
		return first(err, w.prompt(2*time.Second), closedWithin(conns, 9*time.Second))
	}},
	{name: "slow headers, briefly", by: hog, tries: "300 connections that stop in the middle of a head", holds: "others are answered within 2 s", alone: true, run: func(w *world) error {
		conns, err := hold(server, door, 300, "GET /latest/ HTTP/1.1\r\nHost: loc")
		defer closeAll(conns)
		return first(err, w.prompt(2*time.Second))
	}},
	{name: "a byte a second", by: hog, tries: "50 heads of which a byte comes each 200 ms", holds: "closed 5 s after the first byte, however many came since", slow: true, run: func(w *world) error {
		conns, err := hold(server, door, 50, "G")
		defer closeAll(conns)
		if err != nil {
			return err
		}
		end := make(chan struct{})
		defer close(end)
		go func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(200 * time.Millisecond):
				}
				for _, c := range conns {
					io.WriteString(c, "X")
				}
			}
		}()
		return closedWithin(conns, 9*time.Second)
	}},
	{name: "connections without a word", by: hog, tries: "500 that send nothing, 500 that are reset at once", holds: "others are answered within 2 s", alone: true, run: func(w *world) error {
		conns, err := hold(server, door, 500, "")
		defer closeAll(conns)
		if err != nil {
			return err
		}
		for range 500 {
			conn, err := server.dial(door, "", patience)
			if err != nil {
				return err
			}
			conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
		return w.prompt(2 * time.Second)
	}},
	{name: "clients that never read", by: hog, tries: "60 connections with 2,000 pipelined requests each, whose answers nobody takes", holds: "others are answered within 2 s; the daemon grows by less than 48 MiB", alone: true, run: func(w *world) error {
		before, err := w.main.memory()
		if err != nil {
			return err
		}
		var conns []net.Conn
		defer func() { closeAll(conns) }()
		stream := strings.Repeat(get("/latest/user-data", ""), 2000)
		var writers sync.WaitGroup
		for range 60 {
			conn, err := server.dial(door, "", patience)
			if err != nil {
				return err
			}
			conns = append(conns, conn)
			conn.SetDeadline(time.Now().Add(time.Second))
			writers.Go(func() { io.WriteString(conn, stream) })
		}
		prompt := w.prompt(2 * time.Second)
		writers.Wait()
		after, err := w.main.memory()
		if err == nil && after > before+48<<10 {
			err = fmt.Errorf("resident memory goes from %d to %d KiB", before, after)
		}
		return first(prompt, err)
	}},
	{name: "bodies", by: hog, tries: "100 PUTs that announce 10 GiB and send slowly, 20 endless chunked ones", holds: "others are answered within 2 s; nothing is kept", alone: true, run: func(w *world) error {
		a, errA := hold(server, door, 100, putHead+"Content-Length: 10737418240\r\n\r\nx")
		b, errB := hold(server, door, 20, putHead+"Transfer-Encoding: chunked\r\n\r\nffffffff\r\n"+strings.Repeat("x", 60000))
		defer closeAll(append(a, b...))
		return first(errA, errB, w.prompt(2*time.Second))
	}},
	{name: "one container takes every connection", by: container, tries: "3,000 connections of one address on the bridge", holds: "at most 256 of it are open; the host and the container are answered", alone: true, run: func(w *world) error {
		conns, err := hold(bridged, door, 3000, "")
		defer closeAll(conns)
		if err := first(err, w.prompt(2*time.Second), w.answered(bridged, door)); err != nil {
			return err
		}
		return atMost("172.31.0.2", 256)
	}},
	{name: "one container takes every connection over IPv6", by: container, tries: "60 addresses of one /64 with 20 connections each", holds: "at most 256 of the /64 are open; the host is answered", alone: true, run: func(w *world) error {
		var line strings.Builder
		for i := range 60 {
			fmt.Fprintf(&line, "ip -6 address add fd31::6:%x/64 dev eth0 nodad\n", i+1)
		}
		if err := bridged.sh(line.String()); err != nil {
			return err
		}
		defer bridged.sh(strings.ReplaceAll(line.String(), "address add", "address del"))
		var conns []net.Conn
		defer func() { closeAll(conns) }()
		for i := range 60 {
			for range 20 {
				conn, err := bridged.dial(door6, fmt.Sprintf("fd31::6:%x", i+1), patience)
				if err != nil {
					return err
				}
				conns = append(conns, conn)
			}
		}
		return first(w.prompt(2*time.Second), atMost("fd31:", 256))
	}},
	{name: "kernel memory of connections", by: container, tries: "50 connections with long requests whose answers are taken at first, and then no more", holds: "less than 512 KiB of kernel memory each", slow: true, alone: true, run: kernelMemory},
	{name: "a flood of refused connections", by: neighbour, tries: "500 refused connections a second at a host with 250 links", holds: "half of a local client's answers take less than 50 ms, and all less than 2 s", alone: true, run: flood},
	{name: "a flood of requests", by: container, tries: "8 connections that ask as fast as they can for 2 s", holds: "a local client is answered within 2 s each time; the mount too", alone: true, run: func(w *world) error {
		end := time.Now().Add(2 * time.Second)
		var running sync.WaitGroup
		defer running.Wait()
		for range 8 {
			conn, err := bridged.dial(door, "", patience)
			if err != nil {
				return err
			}
			running.Go(func() {
				defer conn.Close()
				conn.SetDeadline(end)
				go io.Copy(io.Discard, conn)
				stream := []byte(strings.Repeat(get(idPath, ""), 100))
				for time.Now().Before(end) {
					if _, err := conn.Write(stream); err != nil {
						return
					}
				}
			})
		}
		for time.Now().Before(end) {
			if err := w.prompt(2 * time.Second); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "names that do not exist", by: user, tries: "20,000 names on the mount that nobody has, and listings", holds: "the daemon grows by less than 32 MiB; others are answered", run: func(w *world) error {
		before, err := w.main.memory()
		if err != nil {
			return err
		}
		cmd := exec.Command("sh", "-c", "cd "+theMount+"/latest/meta-data; i=0; while [ $i -lt 20000 ]; do [ -e evil$i ]; i=$((i+1)); done; for i in 1 2 3; do ls -lR "+theMount+" >/dev/null 2>&1; done")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mallory, Gid: mallory}}
		if out, err := cmd.CombinedOutput(); err != nil && len(out) > 0 {
			return fmt.Errorf("%w: %s", err, out)
		}
		after, err := w.main.memory()
		if err == nil && after > before+32<<10 {
			err = fmt.Errorf("resident memory goes from %d to %d KiB", before, after)
		}
		return err
	}},
	{name: "open files on the mount", by: user, tries: "1,000 open files and mappings of the mount", holds: "both doors go on", run: func(w *world) error {
		cmd := exec.Command(actor, "act", "openmany", idFile)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mallory, Gid: mallory}, Pdeathsig: syscall.SIGKILL}
		in, errIn := cmd.StdinPipe()
		out, errOut := cmd.StdoutPipe()
		if err := first(errIn, errOut, cmd.Start()); err != nil {
			return err
		}
		defer cmd.Wait()
		defer in.Close()
		if word, err := bufio.NewReader(out).ReadString('\n'); word != "held\n" {
			return fmt.Errorf("control: %q, %w", word, err)
		}
		return w.prompt(2 * time.Second)
	}},
	{name: "the log", by: container, tries: "1,000 foreign Hosts, refused peers and bad requests", holds: "less than 64 KiB of log; a line of each kind a minute", run: func(w *world) error {
		before := len(w.main.log.String())
		for i := range 1000 {
			if err := w.deny(door, "GET / HTTP/1.1\r\nHost: evil"+strconv.Itoa(i)+".test\r\n\r\n"+"GET\r\n\r\n"); err != nil {
				return err
			}
		}
		if n := len(w.main.log.String()) - before; n > 64<<10 {
			return fmt.Errorf("the log grew by %d bytes", n)
		}
		return nil
	}},
	{name: "the admin socket of root's own programs", by: user, tries: "300 idle connections to the admin socket by root's uid", holds: "HTTP and the mount go on", run: func(w *world) error {
		var conns []net.Conn
		defer func() { closeAll(conns) }()
		for range 300 {
			conn, err := net.Dial("unix", "/run/imdsfs/admin.sock")
			if err != nil {
				return err
			}
			conns = append(conns, conn)
		}
		return w.prompt(2 * time.Second)
	}},
}

// prompt checks that the mount and HTTP of the main daemon answer within a limit.
func (w *world) prompt(limit time.Duration) error {
	begin := time.Now()
	if err := w.answered(server, door); err != nil {
		return err
	}
	if took := time.Since(begin); exceeds(took, limit) {
		return fmt.Errorf("an answer took %v", took)
	}
	begin = time.Now()
	if out, err := w.as(mallory, "ls", theMount+"/latest/meta-data/no-"+strconv.FormatInt(begin.UnixNano(), 36)); err == nil || errors.Is(err, errHangs) {
		return fmt.Errorf("the mount: %q, %w", out, err)
	}
	if took := time.Since(begin); exceeds(took, limit+time.Second) {
		return fmt.Errorf("an answer of the mount took %v", took)
	}
	return nil
}

// exceeds reports whether something took longer than a limit, and far longer than starting a program takes now. The limit
// is for a machine that is not busy.
func exceeds(took, limit time.Duration) bool {
	if took <= limit {
		return false
	}
	begin := time.Now()
	exec.Command("true").Run()
	return took > 20*time.Since(begin)
}

// closedWithin waits until the server has closed all connections.
func closedWithin(conns []net.Conn, limit time.Duration) error {
	end := time.Now().Add(limit)
	for i, c := range conns {
		c.SetReadDeadline(end)
		if _, err := io.Copy(io.Discard, c); isTimeout(err) {
			return fmt.Errorf("connection %d is open after %v", i, limit)
		}
	}
	return nil
}

// memory is the daemon's resident memory, in KiB.
func (d *daemon) memory() (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.pid()))
	_, rest, _ := strings.Cut(string(text), "\nVmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest + " 0")[0])
	return n, err
}

// atMost checks the number of open connections at port 80 with peers whose address has this prefix. It allows a few more,
// which are being closed.
func atMost(peer string, n int) error {
	const room = 16
	got, begin := 0, time.Now()
	err := until("few enough are open", func() bool {
		out, err := exec.Command("ss", "-Htn", "state", "established", "( sport = :80 )").Output()
		got = 0
		for line := range strings.Lines(string(out)) {
			if fields := strings.Fields(line); err == nil && len(fields) > 3 && strings.Contains(strings.Trim(fields[3], "["), peer) {
				got++
			}
		}
		return err == nil && got <= n+room || time.Since(begin) > 2*time.Second // later they are closed because they are idle
	})
	if err != nil || got > n+room {
		return fmt.Errorf("%d connections of %s are open; %w", got, peer, err)
	}
	return nil
}
