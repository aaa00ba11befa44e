package main

import (
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// flood is a neighbour that connects in vain while a local client sends requests, in a network of its own with many links.
func flood(w *world) error {
	const crowded place = "crowded"
	var line strings.Builder
	line.WriteString("ip netns add crowded; ip netns add flooder; ip -n crowded link set lo up; ip -n crowded -batch - <<'E'\n")
	for i := range 125 {
		fmt.Fprintf(&line, "link add d%d type veth peer name e%d\naddress add 10.88.%d.1/30 dev d%d\nlink set d%d up\n", i, i, i, i, i)
	}
	line.WriteString("E\nip -n crowded link add wire type veth peer name eth0 netns flooder; ip -n crowded link set wire up; ip -n crowded address add 192.0.2.1/24 dev wire; ip -n flooder link set eth0 up; ip -n flooder address add 192.0.2.2/24 dev eth0\n")
	if err := server.sh(line.String()); err != nil {
		return err
	}
	defer server.sh("ip netns del flooder; ip netns del crowded")
	d, err := w.serveAs(how{prefix: []string{"ip", "netns", "exec", string(crowded)}}, instance(mainID, ""), "--listen", "192.0.2.1:80", "--mount", "none")
	if err != nil {
		return err
	}
	defer d.stop()
	calm, _, err := measureAnswers(crowded)
	if err != nil {
		return err
	}
	end := make(chan struct{})
	var refused atomic.Int32
	var running sync.WaitGroup
	for range 5 { // each 100 a second
		running.Go(func() {
			flooder := place("flooder")
			flooder.do(func() error {
				ticker := time.NewTicker(10 * time.Millisecond)
				defer ticker.Stop()
				for {
					select {
					case <-end:
						return nil
					case <-ticker.C:
					}
					fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						continue
					}
					unix.Connect(fd, &unix.SockaddrInet4{Port: 80, Addr: [4]byte{192, 0, 2, 1}})
					refused.Add(1)
					time.AfterFunc(time.Second, func() { unix.Close(fd) })
				}
			})
		})
	}
	median, slowest, err := measureAnswers(crowded)
	close(end)
	running.Wait()
	switch {
	case err != nil:
		return err
	case refused.Load() < 50:
		return fmt.Errorf("control: only %d connections", refused.Load())
	case median > max(50*time.Millisecond, 20*calm) || exceeds(slowest, 2*time.Second):
		return fmt.Errorf("half of the answers took more than %v, the slowest %v; half more than %v without the flood (of %d connections)", median, slowest, calm, refused.Load())
	}
	return nil
}

// measureAnswers times requests of a local client.
func measureAnswers(at place) (median, slowest time.Duration, err error) {
	var all []time.Duration
	for range 50 {
		begin := time.Now()
		conn, err := at.dial("192.0.2.1:80", "", patience)
		if err != nil {
			return 0, 0, fmt.Errorf("a local client: %w", err)
		}
		conn.SetDeadline(begin.Add(patience))
		io.WriteString(conn, strings.Replace(get(idPath, ""), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		answer, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || !strings.HasSuffix(string(answer), mainID) {
			return 0, 0, fmt.Errorf("a local client: %q, %w", answer, err)
		}
		all = append(all, time.Since(begin))
		time.Sleep(5 * time.Millisecond)
	}
	slices.Sort(all)
	return all[len(all)/2], all[len(all)-1], nil
}

// kernelMemory makes the kernel's buffers grow with requests that have long heads. It first reads the answers and then
// stops reading.
func kernelMemory(w *world) error {
	d, err := w.serve(instance(mainID, ""), "--listen", "127.0.0.4:80", "--mount", "none")
	if err != nil {
		return err
	}
	defer d.stop()
	const n = 50
	conns, err := hold(server, "127.0.0.4:80", n, "")
	defer closeAll(conns)
	if err != nil {
		return err
	}
	long := []byte(request("/latest/user-data", "X: "+strings.Repeat("x", 15<<10)+"\r\n"))
	var running sync.WaitGroup
	for _, c := range conns {
		running.Go(func() {
			c.SetDeadline(time.Now().Add(patience))
			var taken sync.WaitGroup
			taken.Go(func() { io.CopyN(io.Discard, c, 200*100) })
			for range 200 {
				c.Write(long)
			}
			taken.Wait()
			c.SetDeadline(time.Now().Add(2 * time.Second))
			for err := error(nil); err == nil; {
				_, err = c.Write(long)
			}
		})
	}
	running.Wait()
	out, err := exec.Command("ss", "-Htnm", "state", "established", "( sport = :80 and src 127.0.0.4 )").Output()
	if err != nil {
		return err
	}
	total, sockets := 0, 0
	for _, found := range skmem.FindAllStringSubmatch(string(out), -1) {
		received, _ := strconv.Atoi(found[1])
		sent, _ := strconv.Atoi(found[2])
		total += received + sent
		sockets++
	}
	if sockets < n/2 {
		return fmt.Errorf("control: only %d sockets", sockets)
	}
	if each := total / sockets; each > 512<<10 {
		return fmt.Errorf("%d KiB each", each>>10)
	}
	return nil
}

var skmem = regexp.MustCompile(`skmem:\(r(\d+),rb\d+,t(\d+),`)
