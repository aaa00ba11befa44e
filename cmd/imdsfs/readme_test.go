package main

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// notRun are the lines of README.md's blocks that no test can run where it is, and why. Each has to be there.
var notRun = map[string]string{
	"make test":    "these are its tests",
	"make package": "the tests of contrib/package do",
	"apt-get install ./dist/imdsfs_*_amd64.deb":         "the tests of contrib/package install the package",
	"systemctl start imdsfs":                            "the tests of contrib/package do, on a machine with systemd",
	"apt-get install -t bookworm-backports golang-go":   "it fetches a compiler",
	"ln -s /usr/bin/imdsfs /usr/sbin/mount.fuse.imdsfs": "the tests of contrib/package look at the same link",
	"imdsfs run": "it goes on until Ctrl-C; TestRunUntilASignal runs it and the lines that it prints",
	fstabLine:    "it is no command; TestALineInFstabMountsAndUmountEndsIt mounts it",
	"source → tree → fs / imds → cmd/imdsfs": "it is a picture",
}

// TestReadme does what README.md says, in its order, in a world of its own: as root after "#" and in indented blocks, as
// an ordinary user after "$". What the README shows must come out, where "…" stands for anything in a line, and alone
// in a line for any lines. imdsfs serve runs in the background until the next one.
func TestReadme(t *testing.T) {
	for _, tool := range []string{"aws", "bash", "curl", "fusermount3", "make", "mknod", "python3", "setpriv"} {
		kit.RequireCommand(t, tool)
	}
	blocks := blocksOf(t, kit.ReadFile(t, "../../README.md"))
	r := newReader(t)
	for i, b := range blocks {
		if i == 0 || b.section != blocks[i-1].section {
			r.leave()
		}
		switch b.kind {
		case "console":
			for _, c := range b.commands() {
				r.follow(c)
			}
		case "":
			for i, line := range strings.Split(b.text, "\n") {
				r.follow(command{line: b.line + i, user: "#", text: line, want: "…"})
			}
		case "toml":
			must(t, os.WriteFile(r.clone+"/instance.toml", []byte(b.text), 0o644))
			r.follow(command{line: b.line, user: "#", text: "imdsfs check --quiet instance.toml", want: "…"})
		case "go":
			if clients := kit.ReadFile(t, "../../testdata/clients/goclients_test.go"); !strings.Contains(unindented(clients), unindented(b.text)) {
				t.Errorf("README.md:%d: no client of testdata/clients/goclients_test.go has these lines:\n%s", b.line, b.text)
			}
		default:
			t.Errorf("README.md:%d: nothing here checks a block of kind %q", b.line, b.kind)
		}
	}
	r.leave()
	r.stop()
	for _, line := range slices.Sorted(maps.Keys(notRun)) {
		if !r.passed[line] {
			t.Errorf("README.md has no block with %q any more", line)
		}
	}
}

// A block of code is fenced, or indented by four blanks.
type block struct {
	section string
	kind    string // what stands behind the fence; "" if it is indented
	line    int    // of its first line of code
	text    string
}

func blocksOf(t *testing.T, readme string) (blocks []block) {
	t.Helper()
	section, fence, open := "", "", false // open: the last block goes on
	for i, line := range strings.Split(readme, "\n") {
		code, indented := strings.CutPrefix(line, "    ")
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence, open = "```", false
			kind := strings.TrimPrefix(line, "```")
			if kind == "" {
				t.Errorf("README.md:%d: the block does not say what it is", i+1)
			}
			blocks = append(blocks, block{section: section, kind: kind, line: i + 2})
		case fence != "" && line == fence:
			fence = ""
		case fence != "":
			blocks[len(blocks)-1].text += line + "\n"
		case indented && open:
			blocks[len(blocks)-1].text += "\n" + code
		case indented:
			blocks, open = append(blocks, block{section: section, line: i + 1, text: code}), true
		default:
			open = false
			if name, ok := strings.CutPrefix(line, "## "); ok {
				section = name
			}
		}
	}
	if fence != "" || len(blocks) < 5 {
		t.Fatalf("README.md has %d blocks, or one without an end", len(blocks))
	}
	return blocks
}

// A command is what a user types, and what comes out.
type command struct {
	line int
	user string // "#" or "$"
	text string
	want string
}

// commands are those of a block of kind console.
func (b block) commands() (commands []command) {
	for i, line := range strings.Split(strings.TrimSuffix(b.text, "\n"), "\n") {
		user, text, found := strings.Cut(line, " ")
		if found && (user == "#" || user == "$") {
			commands = append(commands, command{line: b.line + i, user: user, text: text})
		} else if last := len(commands) - 1; last >= 0 {
			commands[last].want += line + "\n"
		}
	}
	return commands
}

// unindented is text without blanks around its lines.
func unindented(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = strings.TrimSpace(lines[i])
	}
	return strings.Join(lines, "\n")
}

// matches reports whether a command may print got where the README shows want. Blanks in a row are as one.
func matches(want, got string) bool {
	var pattern strings.Builder
	for line := range strings.Lines(strings.TrimSpace(want)) {
		if line = strings.Join(strings.Fields(line), " "); line == "…" {
			pattern.WriteString(`(?:.*\n)*`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(line), "…", ".*") + "\n")
	}
	var lines strings.Builder
	for line := range strings.Lines(strings.TrimSpace(got)) {
		lines.WriteString(strings.Join(strings.Fields(line), " ") + "\n")
	}
	return regexp.MustCompile(`^` + pattern.String() + `$`).MatchString(lines.String())
}

func TestAReadmeThatShowsSomethingElseDoesNotMatch(t *testing.T) {
	for _, c := range []struct {
		want, got string
		match     bool
	}{
		{"", "", true}, {"", "a\n", false}, {"a\n", "", false}, {"a\n", "a", true}, {"a\n", "b\n", false}, {"a\n", "a\nb\n", false},
		{"a  b\n", " a b \n", true}, {"a b\n", "ab\n", false}, {"a.c\n", "abc\n", false},
		{"a:…\n", "a:25\n", true}, {"a:…\n", "a:\n", true}, {"a:…\n", "b:25\n", false}, {"a:…\n", "a:25\nb\n", false},
		{"a\n…\nc\n", "a\nc\n", true}, {"a\n…\nc\n", "a\nb\nb\nc\n", true}, {"a\n…\nc\n", "a\nb\n", false}, {"…", "", true},
	} {
		if matches(c.want, c.got) != c.match {
			t.Errorf("%q shown and %q printed: match is %v", c.want, c.got, !c.match)
		}
	}
}

// A reader follows the README in a clone, in namespaces with the default addresses and directories.
type reader struct {
	*mountSite
	clone   string
	prompts map[string]*prompt // by user
	daemon  *served            // nil before the first
	passed  map[string]bool    // lines of notRun that were met
}

func newReader(t *testing.T) *reader {
	t.Helper()
	w := newMountSite(t, webFile, "")
	r := &reader{mountSite: w, clone: w.mustMkdir("clone"), prompts: map[string]*prompt{}, passed: map[string]bool{}}
	home, program := w.mustMkdir("home"), w.mustMkdir("clone/bin")+"/imdsfs"
	self, err := os.ReadFile("/proc/self/exe")
	must(t, err, os.WriteFile(program, self, 0o755), os.CopyFS(w.mustMkdir("clone/testdata/instances"), os.DirFS(instances)),
		os.WriteFile(r.clone+"/secret", []byte("secret\n"), 0o600), os.Chown(home, 65534, 65534),
		os.WriteFile(w.mustMkdir("root")+"/.curlrc", []byte("silent\nshow-error\n"), 0o644))
	w.run("ip link add eth0 type veth peer name peer0 && ip link set eth0 up") // the machine is described besides what a file states
	// On most machines everybody may open it.
	dev := w.mustMkdir("dev")
	w.run("mount -t tmpfs dev " + dev + " && mknod -m 666 " + dev + "/fuse c 10 229 && mount --bind " + dev + "/fuse /dev/fuse")
	return r
}

// within turns a command into one of the user in the world.
func (r *reader) within(user string, args ...string) *exec.Cmd {
	line := []string{"-t", strconv.Itoa(r.world), "-m", "-n", "--wd=" + r.clone}
	home := r.base + "/root"
	if user == "$" {
		home = r.base + "/home"
		line = append(line, asNobody...)
	}
	cmd := exec.Command("nsenter", append(line, args...)...)
	cmd.Env = []string{"HOME=" + home, "PATH=" + r.clone + "/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "TMPDIR=" + r.base + "/tmp",
		"IMDSFS_TEST_SITE=" + r.base, "GORACE=" + noRaceSleep, "SESSION_TOKEN=token",
		"AWS_METADATA_SERVICE_TIMEOUT=20", "AWS_METADATA_SERVICE_NUM_ATTEMPTS=3"} // instead of 1 s and once
	if user == "$" {
		cmd.Env = append(cmd.Env, "XDG_RUNTIME_DIR="+home)
	}
	return cmd
}

var serves = regexp.MustCompile(`^(bin/)?imdsfs serve .*`)

// follow runs a command and compares what it prints. It succeeds unless an error is shown.
func (r *reader) follow(c command) {
	r.t.Helper()
	if c.want == "…" { // a line of an indented block, which may end in a comment
		c.text, _, _ = strings.Cut(c.text, "  #")
		c.text = strings.TrimSpace(c.text)
	}
	if notRun[c.text] != "" {
		r.passed[c.text] = true
		return
	}
	if c.text == "make run" { // without its build
		out, err := exec.Command("make", "-C", "../..", "--no-print-directory", "-n", "run").Output()
		must(r.t, err)
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		c.text = lines[len(lines)-1]
	}
	if serves.MatchString(c.text) {
		r.serve(c)
		return
	}
	if r.prompts[c.user] == nil {
		r.prompts[c.user] = newPrompt(r.t, r.within(c.user, "bash", "--noprofile", "--norc"))
	}
	got, code := r.prompts[c.user].run(c.text)
	if code != 0 && !strings.HasPrefix(c.want, "imdsfs: error: ") {
		r.t.Errorf("README.md:%d: %s: exit code %d\n%s", c.line, c.text, code, got)
	} else if !matches(c.want, got) {
		r.t.Errorf("README.md:%d: %s prints\n%s\nand not\n%s", c.line, c.text, got, c.want)
	}
}

// serve ends the daemon that runs and starts another.
func (r *reader) serve(c command) {
	r.t.Helper()
	r.stop()
	d := &served{t: r.t, log: &syncBuffer{}, exited: make(chan error, 1)}
	d.cmd = r.within(c.user, "bash", "-c", "exec "+strings.TrimSuffix(c.text, "&"))
	d.cmd.Stderr = d.log
	must(r.t, d.cmd.Start())
	go func() { d.exited <- d.cmd.Wait() }()
	r.daemon = d
	r.t.Cleanup(r.stop)
	kit.Eventually(r.t, fmt.Sprintf("README.md:%d: %s is ready", c.line, c.text), func() bool {
		if d.ended() {
			r.t.Fatalf("README.md:%d: %s ended:\n%s", c.line, c.text, d.log)
		}
		return strings.Contains(d.log.String(), "msg=ready")
	})
}

func (r *reader) stop() {
	if r.daemon != nil {
		r.daemon.stop()
	}
}

// leave closes the terminals, as after each section: the next one sets its own variables.
func (r *reader) leave() {
	for _, s := range r.prompts {
		s.close()
	}
	clear(r.prompts)
}
