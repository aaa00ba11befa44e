package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	base       = "/run/attack"
	programDir = base + "/bin"
	imdsfs     = programDir + "/imdsfs"
	helper     = programDir + "/mount.fuse.imdsfs"
	actor      = programDir + "/attack"
	home       = base + "/home"    // of mallory
	outside    = base + "/outside" // of root, with files that nobody may change

	mallory = 40001 // another local user
	victim  = 40002 // a third one
	nobody  = 65534 // the user of the kept daemon

	door       = "169.254.169.254:80"
	door6      = "[fd00:ec2::254]:80"
	strictDoor = "10.77.1.1:80"
	keptDoor   = "127.0.0.2:80"
	metrics    = "127.0.0.1:9338"

	mainID   = "i-0a1b2c3d4e5f67890"
	strictID = "i-0b1b2c3d4e5f67890"
	keptID   = "i-0c1b2c3d4e5f67890"
)

// Values that no attacker may see.
const (
	secretKey      = "Zm9yYmlkZGVuIHNlY3JldCBrZXkgb2Ygcm9sZQ"
	sessionSecret  = "forbidden-session-token-of-role"
	userDataSecret = "forbidden-user-data"
	rootSecret     = "forbidden-file-of-root"
	environSecret  = "forbidden-variable-of-root"
)

// A world holds the daemons that are attacked.
type world struct {
	main   *daemon // mount and HTTP, tokens optional, at the real address; answers the bridge, but no neighbour
	strict *daemon // tokens required, hop limit 1, outside of the guests
	kept   *daemon // --keep --user nobody

	mu      sync.Mutex
	daemons []*daemon // all that have run
	tokens  []string  // all that were issued to us
	nextDir int
}

// instance is an instance file. more are lines at the end.
func instance(id, more string) string {
	return `user-data = "` + userDataSecret + `"
[instance]
launch-time = 2026-01-05T08:30:00Z
[meta-data]
instance-id = "` + id + `"
instance-type = "m5.large"
local-ipv4 = "10.0.12.34"
mac = "06:2b:3c:4d:5e:6f"
placement.availability-zone = "eu-west-1b"
[credentials.role]
type = "static"
access-key-id = "ASIAIOSFODNN7EXAMPLE"
secret-access-key = "` + secretKey + `"
token = "` + sessionSecret + `"
` + more
}

func newWorld(program string) (w *world, err error) {
	w = &world{}
	defer func() {
		if err != nil {
			w.stop()
		}
	}()
	if err := makeFiles(program); err != nil {
		return w, err
	}
	if err := makeNetwork(); err != nil {
		return w, err
	}
	options := func(tokens string) string {
		return "[metadata-options]\nhttp-tokens = \"" + tokens + "\"\nhttp-put-response-hop-limit = 1\nhttp-protocol-ipv6 = \"enabled\"\n"
	}
	w.main, err = w.serve(instance(mainID, options("optional")), "--runtime-dir", "/run/imdsfs", "--state-dir", "/var/lib/imdsfs", "--listen", "link-local", "--add-addresses",
		"--mount", "/run/metadata", "--metrics", metrics, "--allow-from", "local", "--allow-from", "iface:br0")
	if err != nil {
		return w, err
	}
	w.strict, err = w.serve(instance(strictID, options("required")+"[server]\nvantage = \"host\"\n"), "--listen", strictDoor, "--mount", "none",
		"--allow-from", "local", "--allow-from", "10.77.0.0/16")
	if err != nil {
		return w, err
	}
	w.kept, err = w.serveKept()
	return w, err
}

// makeFiles mounts new directories over those that are used, and copies the programs to where every user can run them.
func makeFiles(program string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	us, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return err
	}
	them, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	for dir, mode := range map[string]string{"/run": "0755", "/tmp": "1777", "/var/lib": "0755"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode="+mode); err != nil {
			return fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	unix.Umask(0o022)
	return first(
		os.MkdirAll(programDir, 0o755),
		os.WriteFile(imdsfs, them, 0o755),
		os.WriteFile(actor, us, 0o755),
		os.Symlink("imdsfs", helper),
		os.Mkdir(home, 0o755),
		os.Chown(home, mallory, mallory),
		os.Mkdir(outside, 0o755),
		os.WriteFile(outside+"/file", []byte(rootSecret), 0o600),
		os.Mkdir(outside+"/dir", 0o700),
	)
}

func makeNetwork() error {
	const link = `ip link add %[1]s type veth peer name eth0 netns %[2]s
ip link set %[1]s up
ip -n %[2]s link set lo up
ip -n %[2]s link set eth0 up
`
	return server.sh("ip link set lo up; for name in lan bridged router distant; do ip netns add $name; done\n" +
		fmt.Sprintf(link, "wire0", lan) + `
ip address add 192.0.2.1/24 dev wire0
ip -6 address add fd02::1/64 dev wire0 nodad
ip -n lan address add 192.0.2.2/24 dev eth0
ip -n lan -6 address add fd02::2/64 dev eth0 nodad
ip -n lan route add 169.254.169.254 via 192.0.2.1
ip -n lan -6 route add fd00:ec2::254 via fd02::1
ip link add br0 type bridge
ip link set br0 up
ip address add 172.31.0.1/24 dev br0
ip -6 address add fd31::1/64 dev br0 nodad
` + fmt.Sprintf(link, "port0", bridged) + `
ip link set port0 master br0
ip -n bridged address add 172.31.0.2/24 dev eth0
ip -n bridged -6 address add fd31::2/64 dev eth0 nodad
ip -n bridged route add default via 172.31.0.1
ip -n bridged -6 route add default via fd31::1
` + fmt.Sprintf(link, "wire1", router) + `
ip address add 10.77.1.1/24 dev wire1
ip -n router address add 10.77.1.2/24 dev eth0
ip route add 10.77.2.0/24 via 10.77.1.2
ip -n router link add wire2 type veth peer name eth0 netns distant
ip -n router link set wire2 up
ip -n router address add 10.77.2.2/24 dev wire2
ip -n distant link set lo up
ip -n distant link set eth0 up
ip -n distant address add 10.77.2.1/24 dev eth0
ip -n distant route add default via 10.77.2.2
ip netns exec router sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward'
`)
}

// dir makes a directory of root that others can enter.
func (w *world) dir() string {
	w.mu.Lock()
	w.nextDir++
	path := fmt.Sprintf("%s/%d", base, w.nextDir)
	w.mu.Unlock()
	os.Mkdir(path, 0o755)
	return path
}

// as runs a command as a user, from /, with a short environment. It returns the output of both streams.
func (w *world) as(uid int, args ...string) (string, error) { return w.asIn(uid, nil, args...) }

func (w *world) asIn(uid int, env []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.WaitDelay = "/", time.Second
	cmd.Env = append([]string{"PATH=" + programDir + ":/usr/sbin:/usr/bin:/sbin:/bin", "HOME=" + home, "LC_ALL=C"}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if uid != 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", errHangs, err)
	}
	return string(out), err
}

var errHangs = fmt.Errorf("does not end within %v", patience)

// sh is as, for a line of shell.
func (w *world) sh(uid int, line string) (string, error) { return w.as(uid, "sh", "-c", line) }

// refused checks that a line of shell fails for a user at once and shows no secret.
func (w *world) refused(uid int, lines ...string) error {
	for _, line := range lines {
		out, err := w.sh(uid, line)
		switch {
		case err == nil:
			return fmt.Errorf("uid %d: %s: succeeds, and prints %q", uid, line, out)
		case errors.Is(err, errHangs):
			return fmt.Errorf("uid %d: %s: %w", uid, line, err)
		}
		if err := w.secretIn(out); err != nil {
			return fmt.Errorf("uid %d: %s: %w", uid, line, err)
		}
	}
	return nil
}

// allowed checks that a line of shell succeeds. It is the counter-test of refused.
func (w *world) allowed(uid int, lines ...string) error {
	for _, line := range lines {
		if out, err := w.sh(uid, line); err != nil {
			return fmt.Errorf("control: uid %d: %s: %w: %s", uid, line, err, out)
		}
	}
	return nil
}

// secretIn returns an error if the text holds a secret or a token of ours.
func (w *world) secretIn(text string) error {
	for _, s := range []string{secretKey, sessionSecret, userDataSecret, rootSecret, environSecret} {
		if strings.Contains(text, s) {
			return fmt.Errorf("the secret %q shows", s)
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range w.tokens {
		if strings.Contains(text, t) {
			return errors.New("a session token shows")
		}
	}
	return nil
}

var tokenPattern = regexp.MustCompile(`AQAEA[\w-]{49}==`)

func putToken(ttl string) string {
	return "PUT /latest/api/token HTTP/1.1\r\nHost: instance-data\r\nX-aws-ec2-metadata-token-ttl-seconds: " + ttl + "\r\n\r\n"
}

func get(path, token string) string {
	if token != "" {
		token = "X-aws-ec2-metadata-token: " + token + "\r\n"
	}
	return "GET " + path + " HTTP/1.1\r\nHost: instance-data\r\n" + token + "\r\n"
}

const idPath = "/latest/meta-data/instance-id"

// token gets a session token from an address.
func (w *world) token(address, ttl string) (string, error) {
	answer, err := server.say(address, putToken(ttl))
	token := tokenPattern.FindString(answer)
	if token == "" {
		return "", fmt.Errorf("no token from %s: %w, %.200q", address, err, answer)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tokens = append(w.tokens, token)
	return token, nil
}

// well checks that the daemons run, and that the mount and HTTP show the right values.
func (w *world) well() error {
	for _, d := range []struct {
		*daemon
		address, id string
	}{{w.main, door, mainID}, {w.main, door6, mainID}, {w.strict, strictDoor, strictID}, {w.kept, keptDoor, keptID}} {
		if err := d.alive(); err != nil {
			return err
		}
		token, err := w.token(d.address, "60")
		if err != nil {
			return err
		}
		answer, err := server.say(d.address, get(idPath, token))
		if err != nil || !strings.HasSuffix(answer, "\r\n\r\n"+d.id) {
			return fmt.Errorf("%s: the instance is %q, %w", d.address, answer, err)
		}
		if d.mount == "" {
			continue
		}
		if out, err := w.as(mallory, "cat", d.mount+idPath); out != d.id || err != nil {
			return fmt.Errorf("%s: the instance is %q, %w", d.mount, out, err)
		}
		if out, err := w.as(0, "cat", d.mount+credentials); !strings.Contains(out, secretKey) || err != nil {
			return fmt.Errorf("%s: root reads the credentials: %q, %w", d.mount, out, err)
		}
		if out, err := w.as(0, imdsfs, "status", "--runtime-dir", d.runtime); err != nil {
			return fmt.Errorf("status: %w: %s", err, out)
		}
	}
	return nil
}

const credentials = "/latest/meta-data/iam/security-credentials/role"

// stop ends all daemons that still run.
func (w *world) stop() {
	w.mu.Lock()
	daemons := w.daemons
	w.mu.Unlock()
	for _, d := range daemons {
		d.stop()
	}
}

// A logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func newLineReader(text string) *bufio.Reader { return bufio.NewReader(strings.NewReader(text)) }

// listing describes everything below a directory: names, types, modes, owners, sizes and the content of regular files.
func listing(dir string) string {
	var b strings.Builder
	filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return nil
		}
		fmt.Fprintf(&b, "%s %o %d:%d %d dev %d", path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Dev)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			text, _ := os.ReadFile(path)
			fmt.Fprintf(&b, " %q", text)
		}
		b.WriteByte('\n')
		return nil
	})
	return b.String()
}

// difference are the lines that only one of two texts has.
func difference(before, after string) string {
	var b strings.Builder
	for _, side := range []struct{ sign, text, other string }{{"-", before, after}, {"+", after, before}} {
		for line := range strings.Lines(side.text) {
			if !strings.Contains(side.other, line) {
				b.WriteString(side.sign + " " + line)
			}
		}
	}
	return b.String()
}
