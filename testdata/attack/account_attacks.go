package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var accountAttacks = []attack{
	{name: "the admin socket", by: user, tries: "connecting, `imdsfs status`, `set`, `options set`, `tag`, `reset`, `reload`, `upgrade`", holds: "permission denied, nothing changes", run: func(w *world) error {
		const dir = "--runtime-dir /run/imdsfs "
		return first(w.allowed(0, imdsfs+" status "+dir),
			w.refused(mallory, imdsfs+" status "+dir, imdsfs+" set "+dir+"instance-type evil", imdsfs+" options set "+dir+"http-tokens=optional", imdsfs+" tag set "+dir+"a b", imdsfs+" reset "+dir, imdsfs+" reload "+dir, imdsfs+" upgrade "+dir+"--program "+actor,
				"curl -sS --unix-socket /run/imdsfs/admin.sock http://x/v1/status", "rm -f /run/imdsfs/admin.sock", "mv /run/imdsfs/admin.sock /tmp"))
	}},
	{name: "the admin socket through a container", by: container, tries: "another user of a container that has the run-time directory bound, and root of a user namespace", holds: "permission denied", run: func(w *world) error {
		return w.refused(mallory, "unshare -Ur "+imdsfs+" status --runtime-dir /run/imdsfs", "unshare -Urm sh -c 'mount --bind /run/imdsfs /mnt && "+imdsfs+" status --runtime-dir /mnt'")
	}},
	{name: "files of the run-time directory", by: user, tries: "reading every file there: keys, locks, records", holds: "only the list of addresses can be read", run: func(w *world) error {
		keys := 0
		for _, d := range []*daemon{w.main, w.strict, w.kept} {
			err := filepath.WalkDir(d.runtime, func(path string, e fs.DirEntry, err error) error {
				if err != nil || e.IsDir() || e.Type()&fs.ModeSocket != 0 || e.Name() == "listen" {
					return err
				}
				keys++
				return w.refused(mallory, "cat "+path)
			})
			if err != nil {
				return err
			}
		}
		if keys < 6 {
			return fmt.Errorf("control: only %d files", keys)
		}
		return w.allowed(mallory, "cat /run/imdsfs/listen")
	}},
	{name: "files of the state directory", by: user, tries: "listing and entering it", holds: "permission denied", run: func(w *world) error {
		return first(w.allowed(0, "test -d /var/lib/imdsfs"), w.refused(mallory, "ls /var/lib/imdsfs/", "cat /var/lib/imdsfs/launch.json", "touch /var/lib/imdsfs/x"))
	}},
	{name: "a careless umask", by: user, tries: "reading what a daemon leaves that root has started with umask 0", holds: "the socket and every file but the list of addresses belong to root alone; nothing is writable for others", run: func(w *world) error {
		dir := w.dir()
		d, err := w.serveAs(how{prefix: []string{"sh", "-c", `umask 0; exec "$@"`, "sh"}}, instance(mainID, ""), "--runtime-dir", dir+"/run", "--state-dir", dir+"/state", "--listen", "127.0.0.1:0", "--mount", dir+"/m")
		if err != nil {
			return err
		}
		defer d.stop()
		return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if path == dir+"/m" {
				return fs.SkipDir
			}
			info, err := e.Info()
			if err != nil {
				return err
			}
			mode := info.Mode().Perm()
			if mode&0o022 != 0 || mode&0o077 != 0 && !e.IsDir() && e.Name() != "listen" {
				return fmt.Errorf("%s has mode %04o", path, mode)
			}
			return nil
		})
	}},
	{name: "signals", by: user, tries: "SIGHUP, SIGUSR1, SIGUSR2, SIGTERM, SIGSTOP, SIGKILL to each daemon and keeper", holds: "not permitted", run: func(w *world) error {
		worker, err := w.kept.worker()
		if err != nil {
			return err
		}
		for _, pid := range []int{w.main.pid(), w.kept.pid(), worker} {
			for _, sig := range []string{"HUP", "USR1", "USR2", "TERM", "STOP", "KILL", "QUIT", "0"} {
				if err := w.refused(mallory, fmt.Sprintf("kill -%s %d", sig, pid)); err != nil {
					return err
				}
			}
		}
		return nil
	}},
	{name: "/proc of the daemon", by: user, tries: "environ, maps, mem, fd, cwd, root, io, `pidfd_getfd`, `process_vm_readv`, ptrace", holds: "permission denied", run: func(w *world) error {
		return w.refused(mallory, peeks(w.main.pid())...)
	}},
	{name: "/proc of a daemon of his own", by: bad, tries: "the same by another process of the daemon's user, against the daemon and its keeper", holds: "permission denied: neither can be dumped", run: func(w *world) error {
		worker, err := w.kept.worker()
		if err != nil {
			return err
		}
		return first(w.refused(nobody, peeks(worker)...), w.refused(nobody, peeks(w.kept.pid())...))
	}},
	{name: "a core dump", by: user, tries: "SIGABRT, SIGSEGV and SIGQUIT to a daemon whose core file has no limit", holds: "no core file; no secret in what is printed", run: func(w *world) error {
		for _, sig := range []syscall.Signal{syscall.SIGABRT, syscall.SIGSEGV, syscall.SIGQUIT} {
			d, err := w.serveAs(how{prefix: []string{"prlimit", "--core=unlimited:unlimited"}, env: []string{"GOTRACEBACK=crash"}}, instance(mainID, ""), "--listen", "127.0.0.1:0", "--mount", "none")
			if err != nil {
				return err
			}
			address, err := d.address()
			if err != nil {
				return err
			}
			if _, err := w.token(address, "60"); err != nil {
				return err
			}
			d.cmd.Process.Signal(sig)
			if err := until("it has ended", d.ended); err != nil {
				return err
			}
			if status, ok := d.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.CoreDump() {
				return fmt.Errorf("%v: %v", sig, d.end)
			}
			if err := w.secretIn(d.log.String()); err != nil {
				return fmt.Errorf("%v: %w", sig, err)
			}
		}
		return nil
	}},
	{name: "what ps shows", by: user, tries: "the command line of every process", holds: "no secret", run: func(w *world) error {
		out, err := w.sh(mallory, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
		if !strings.Contains(out, "imdsfs") {
			return fmt.Errorf("control: %q, %w", out, err)
		}
		return w.secretIn(out)
	}},
	{name: "a socket in the place of another user's run-time directory", by: user, tries: "`/tmp/imdsfs-UID` of the victim with a listening admin.sock, who then says `imdsfs set` and `status`", holds: "refused before the first byte; his own directory is used", run: func(w *world) error {
		return w.trap(mallory)
	}},
	{name: "a list of addresses in the place of another user's", by: user, tries: "`/tmp/imdsfs-UID/listen` with the attacker's port, and a symbolic link to such a directory; the victim says `imdsfs get`", holds: "the port is never asked", run: func(w *world) error {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		var asked atomic.Int32
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				asked.Add(1)
				conn.Close()
			}
		}()
		dir := fmt.Sprintf("/tmp/imdsfs-%d", victim+1)
		for _, make := range []string{"mkdir -m 755 " + dir, "mkdir -m 755 " + home + "/trap && ln -s " + home + "/trap " + dir} {
			if err := w.allowed(mallory, make+" && echo "+listener.Addr().String()+" >"+dir+"/listen && chmod 644 "+dir+"/listen"); err != nil {
				return err
			}
			if out, err := w.asIn(victim+1, []string{"TMPDIR=/tmp"}, imdsfs, "get", "instance-id"); asked.Load() > 0 {
				return fmt.Errorf("asked: %s, %w", out, err)
			}
			if err := w.allowed(0, "rm -rf "+dir); err != nil {
				return err
			}
		}
		// The same file is accepted if it belongs to the victim.
		if err := w.allowed(victim+1, "mkdir -m 700 "+dir+" && echo "+listener.Addr().String()+" >"+dir+"/listen"); err != nil {
			return err
		}
		w.as(victim+1, imdsfs, "get", "--timeout", "1s", "instance-id")
		if asked.Load() == 0 {
			return errors.New("control: his own list is not used either")
		}
		return nil
	}},
	{name: "the environment of a client", by: page, tries: "proxies in the environment, an endpoint with a password, redirects of a stranger", holds: "no proxy is asked, the password is not repeated, no redirect is followed", run: func(w *world) error {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		var asked atomic.Int32
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				asked.Add(1)
				conn.SetDeadline(time.Now().Add(time.Second))
				conn.Read(make([]byte, 4096))
				conn.Write([]byte("HTTP/1.1 307 x\r\nLocation: http://" + door + "/latest/user-data\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"))
				conn.Close()
			}
		}()
		proxy := "http://" + listener.Addr().String()
		out, err := w.asIn(mallory, []string{"http_proxy=" + proxy, "HTTP_PROXY=" + proxy, "ALL_PROXY=" + proxy}, imdsfs, "get", "--endpoint", "http://"+door, "instance-id")
		if out != mainID || err != nil || asked.Load() > 0 {
			return fmt.Errorf("with a proxy: %q, %w, the proxy is asked %d times", out, err, asked.Load())
		}
		if out, err := w.as(mallory, imdsfs, "get", "--endpoint", proxy, "/latest/user-data"); err == nil || strings.Contains(out, userDataSecret) || asked.Load() == 0 {
			return fmt.Errorf("a redirect: %q, %w", out, err)
		}
		out, err = w.as(mallory, imdsfs, "get", "--endpoint", "http://user:"+environSecret+"@127.0.0.1/", "instance-id")
		if err == nil {
			return fmt.Errorf("a password: %q", out)
		}
		return w.secretIn(out)
	}},
	{name: "a terminal's escapes", by: client, tries: "control characters in names and values that `imdsfs tree` prints from a stranger's service", holds: "none reaches the terminal", run: func(w *world) error {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(patience))
					conn.Read(make([]byte, 4096))
					body := "a\x1b]0;evil\x07\nb\x9b31m"
					fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
				}()
			}
		}()
		out, err := w.as(mallory, imdsfs, "tree", "--v1", "--endpoint", "http://"+listener.Addr().String())
		if strings.ContainsAny(out, "\x1b\x07\u009b") || strings.Contains(out, "\x9b3") || out == "" {
			return fmt.Errorf("%q, %w", out, err)
		}
		return nil
	}},
}

// peeks are the ways to look into a process. Most shell commands succeed in part.
func peeks(pid int) []string {
	p := "/proc/" + strconv.Itoa(pid)
	n := strconv.Itoa(pid)
	return []string{"head -c 1 " + p + "/environ", "head -c 1 " + p + "/maps", "head -c 1 " + p + "/mem", "ls " + p + "/fd/ 2>/dev/null", "ls " + p + "/map_files/ 2>/dev/null", "readlink " + p + "/cwd", "readlink " + p + "/exe", "ls " + p + "/root/ 2>/dev/null",
		"cat " + p + "/io", "cat " + p + "/fd/3", "cat " + p + "/syscall", "cat " + p + "/stack", actor + " act ptrace " + n, actor + " act vmread " + n, actor + " act pidfd " + n + " 3", "unshare -Ur " + actor + " act ptrace " + n}
}

// trap makes the victim's run-time directory, with a listening socket in it, as the attacker.
func (w *world) trap(owner int) error {
	for _, kind := range []string{"directory", "link"} {
		dir := fmt.Sprintf("/tmp/imdsfs-%d", victim)
		place := dir
		if kind == "link" {
			place = home + "/socket-trap"
		}
		if err := w.allowed(owner, "mkdir -m 755 "+place); err != nil {
			return err
		}
		listener, err := net.Listen("unix", place+"/admin.sock")
		if err != nil {
			return err
		}
		os.Chmod(place+"/admin.sock", 0o777)
		os.Lchown(place+"/admin.sock", owner, owner)
		if kind == "link" {
			if err := w.allowed(owner, "ln -s "+place+" "+dir); err != nil {
				return err
			}
		}
		got := make(chan string, 100)
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				conn.SetDeadline(time.Now().Add(2 * time.Second))
				text := make([]byte, 4096)
				n, _ := conn.Read(text)
				got <- string(text[:n])
				conn.Close()
			}
		}()
		for _, line := range [][]string{{"status"}, {"set", "instance-type", environSecret}, {"options", "get"}} {
			out, err := w.as(victim, append([]string{imdsfs}, line...)...)
			if err == nil {
				return fmt.Errorf("%v: %s", line, out)
			}
		}
		listener.Close()
		os.RemoveAll(place)
		os.Remove(dir)
		for len(got) > 0 {
			if text := <-got; text != "" {
				return fmt.Errorf("%s: the attacker's socket got %q", kind, text)
			}
		}
	}
	return nil
}
