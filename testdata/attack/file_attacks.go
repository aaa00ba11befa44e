package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

var fileAttacks = []attack{
	ownFile("a link to a file of root's", "`user-data-file = \"link\"`, where link leads to a file that only root can read", "user-data-file = \"x\"\n", "ln -s OUTSIDE/file x"),
	ownFile("a link to the daemon's own key", "the same with the token key", "user-data-file = \"x\"\n", "ln -s /run/imdsfs/token.key x"),
	ownFile("an absolute path", "the same with the path itself, and with `..`", "user-data-file = \"OUTSIDE/file\"\n", "true"),
	ownFile("a link in the middle of the path", "`user-data-file = \"d/file\"`, where d leads to a directory of root's", "user-data-file = \"d/file\"\n", "ln -s OUTSIDE d"),
	ownFile("a chain of links", "a link to a link, through `/proc/self/root`", "user-data-file = \"x\"\n", "ln -s y x && ln -s /proc/self/rootOUTSIDE/file y"),
	ownFile("keys of a role", "`secret-access-key-file` on a link to a file of root's", "KEY-FILE", "ln -s OUTSIDE/file x"),
	ownFile("variables of root", "`secret-access-key-env` with a variable of root's environment", "KEY-ENV", "true"),
	{name: "a link that comes later", by: user, tries: "a good file in his own folder that becomes a link while the daemon follows it", holds: "the file of root's is never served", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.mine(t, "user-data-file = \"x\"\n", "echo good >x"); err != nil {
			return err
		}
		d, err := w.launchFile(how{}, t.mine+"/instance.toml", "--listen", "127.0.0.1:0", "--mount", "none")
		if err != nil {
			return err
		}
		defer d.stop()
		if err := d.ready(); err != nil {
			return err
		}
		address, err := d.address()
		if err != nil {
			return err
		}
		answer, err := server.say(address, get("/latest/user-data", ""))
		if err != nil || !strings.HasSuffix(answer, "good\n") {
			return fmt.Errorf("control: %q, %w", answer, err)
		}
		if err := w.allowed(mallory, "cd "+t.mine+" && ln -s "+t.outside+"/file y && mv y x"); err != nil {
			return err
		}
		for range 10 {
			d.cmd.Process.Signal(syscall.SIGHUP)
			time.Sleep(30 * time.Millisecond) // for a reload that must not succeed there is nothing to wait for
			answer, err := server.say(address, get("/latest/user-data", ""))
			if err := first(err, w.secretIn(answer)); err != nil {
				return err
			}
		}
		return w.secretIn(d.log.String())
	}},
	{name: "exchanging a file while it is read", by: user, tries: "`renameat2(RENAME_EXCHANGE)` of a good file and a link to a file of root's, in a loop, over 60 reloads", holds: "the file of root's is never served", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.mine(t, "user-data-file = \"x\"\n", "echo good >x && ln -s OUTSIDE/file y"); err != nil {
			return err
		}
		d, err := w.launchFile(how{}, t.mine+"/instance.toml", "--listen", "127.0.0.1:0", "--mount", "none")
		if err != nil {
			return err
		}
		defer d.stop()
		if err := d.ready(); err != nil {
			return err
		}
		address, err := d.address()
		if err != nil {
			return err
		}
		cmd := exec.Command(actor, "act", "exchange", t.mine+"/x", t.mine+"/y", "60000")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: mallory, Gid: mallory}, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		for range 60 {
			d.cmd.Process.Signal(syscall.SIGHUP)
			time.Sleep(10 * time.Millisecond) // for a reload that must not succeed there is nothing to wait for
			answer, err := server.say(address, get("/latest/user-data", ""))
			if err := first(err, w.secretIn(answer), d.alive()); err != nil {
				return err
			}
		}
		return w.secretIn(d.log.String())
	}},
	{name: "an instance file that is a link", by: user, tries: "root serves a file in his folder, which is his link to an instance file of root's", holds: "refused: nobody serves it who was not meant to", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := first(os.WriteFile(t.outside+"/roots.toml", []byte(instance(mainID, "")), 0o600), w.allowed(mallory, "ln -s "+t.outside+"/roots.toml "+t.mine+"/instance.toml")); err != nil {
			return err
		}
		return w.mustFault(t.mine + "/instance.toml")
	}},
	{name: "files that are none", by: user, tries: "user-data-file that is a FIFO, a device, a directory, `/proc/self/mem`, of 1 GiB, a link to itself", holds: "refused, with little time and memory", run: func(w *world) error {
		for _, make := range []string{"mkfifo x", "ln -s /dev/zero x", "ln -s /dev/urandom x", "mkdir x", "ln -s /proc/self/mem x", "truncate -s 1G x", "ln -s x x", "ln -s /proc/self/fd/0 x", "ln -s /dev/tty x", "true"} {
			dir := w.dir()
			if err := w.allowed(0, "cd "+dir+" && "+make); err != nil {
				return err
			}
			if err := os.WriteFile(dir+"/instance.toml", []byte("user-data-file = \"x\"\n[meta-data]\ninstance-id = \""+mainID+"\"\n"), 0o600); err != nil {
				return err
			}
			if err := w.mustFault(dir + "/instance.toml"); err != nil {
				return fmt.Errorf("%s: %w", make, err)
			}
		}
		return nil
	}},
	{name: "instance files that are none", by: user, tries: "`-c` on a FIFO, a device, a directory, `/proc/self/mem`, a link to itself, 1 GiB of zeros", holds: "refused, with little time and memory", run: func(w *world) error {
		for _, make := range []string{"mkfifo x", "ln -s /dev/zero x", "mkdir x", "ln -s /proc/self/mem x", "truncate -s 1G x", "ln -s x x", "true"} {
			dir := w.dir()
			if err := w.allowed(0, "cd "+dir+" && "+make); err != nil {
				return err
			}
			if err := w.mustFault(dir + "/x"); err != nil {
				return fmt.Errorf("%s: %w", make, err)
			}
		}
		return nil
	}},
	{name: "text that is made to cost", by: user, tries: "100,000 nested arrays and tables, 20,000 keys, 1 MiB keys, dotted keys of 100,000 parts, NULs, broken UTF-8, escapes", holds: "an answer within 10 s of processor time and 512 MiB; no crash", run: func(w *world) error {
		const head = "[meta-data]\ninstance-id = \"" + mainID + "\"\n"
		for name, text := range map[string]string{
			"arrays":        head + "x = " + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + "\n",
			"open arrays":   head + "x = " + strings.Repeat("[", 500_000),
			"inline tables": head + "x = " + strings.Repeat("{a = ", 100_000) + "1" + strings.Repeat("}", 100_000) + "\n",
			"dotted keys":   head + "x" + strings.Repeat(".a", 100_000) + " = \"1\"\n",
			"headers":       head + "[meta-data" + strings.Repeat(".a", 50_000) + "]\n",
			"many keys": head + func() (s string) {
				var b strings.Builder
				for i := range 20_000 {
					fmt.Fprintf(&b, "k%d = \"v\"\n", i)
				}
				return b.String()
			}(),
			"long keys":    head + strings.Repeat("k", 1<<20) + " = \"v\"\n",
			"long strings": head + "x = \"" + strings.Repeat("v", 8<<20) + "\"\n",
			"NULs":         head + "x = \"a\x00b\"\n\x00\x00\x00",
			"UTF-8":        head + "x = \"\xff\xfe\xc0\xaf\"\n",
			"lines":        head + strings.Repeat("\n", 5_000_000),
			"quotes":       head + "x = " + strings.Repeat("\"\"\"", 300_000),
			"comments":     "#" + strings.Repeat("#", 8<<20) + "\n" + head,
			"tables":       head + strings.Repeat("[[access]]\npath = \"meta-data\"\nmode = \"0444\"\n", 10_000),
			"names":        head + "\"../../x\" = \"1\"\n\"a/b\" = \"1\"\n\".\" = \"1\"\n\"\" = \"1\"\n",
		} {
			path := w.dir() + "/x.toml"
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				return err
			}
			if _, _, err := w.check(path); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			os.Remove(path)
		}
		return nil
	}},
	{name: "names that lead elsewhere", by: user, tries: "`..`, `/`, NUL, line breaks, escapes and 300 bytes as keys and tags", holds: "a fault, or a file of that name; no escape reaches a terminal", run: func(w *world) error {
		for _, key := range []string{`".."`, `"a/b"`, `"a\u0000b"`, `"."`, `""`} {
			path := w.dir() + "/x.toml"
			if err := os.WriteFile(path, []byte("[meta-data]\ninstance-id = \""+mainID+"\"\n"+key+" = \"x\"\n"), 0o600); err != nil {
				return err
			}
			if err := w.mustFault(path); err != nil {
				return fmt.Errorf("%s: %w", key, err)
			}
		}
		for _, key := range []string{`"\u001b]0;evil\u0007"`, `"a\nimdsfs: error: b"`, `"` + strings.Repeat("n", 300) + `"`, `"\u202eevil"`} {
			path := w.dir() + "/x.toml"
			if err := os.WriteFile(path, []byte("[meta-data]\ninstance-id = \""+mainID+"\"\n"+key+" = \"x\"\n[tags]\n"+key+" = \"x\"\n"), 0o600); err != nil {
				return err
			}
			out, _, err := w.check(path)
			if err != nil || strings.ContainsAny(out, "\x1b\x07") || strings.Contains(out, "\nimdsfs: error: b") {
				return fmt.Errorf("%s: %w: %q", key, err, out)
			}
		}
		return nil
	}},
	{name: "secrets in what check prints", by: user, tries: "`imdsfs check` of a good and a faulty file with secrets", holds: "`[secret]`, and no part of one in an error", run: func(w *world) error {
		for _, more := range []string{"", "[instance]\n", "nonsense", "[credentials.role2]\nsecret-access-key = \"" + secretKey + "\"\n", "[server]\nlisten = 5\n"} {
			path := w.dir() + "/x.toml"
			if err := os.WriteFile(path, []byte(instance(mainID, more)), 0o600); err != nil {
				return err
			}
			out, _, err := w.check(path)
			if err := first(err, w.secretIn(out)); err != nil {
				return fmt.Errorf("%q: %w", more, err)
			}
		}
		return nil
	}},
}

// mine writes an instance file into mallory's folder as mallory, after a line of shell there. OUTSIDE is root's directory.
func (w *world) mine(t *trapdoor, text, line string) error {
	role := func(key string) string {
		return "[credentials.role]\ntype = \"static\"\naccess-key-id = \"ASIAIOSFODNN7EXAMPLE\"\ntoken = \"x\"\nexpiration = 2099-01-01T00:00:00Z\n" + key
	}
	text += "[meta-data]\ninstance-id = \"" + mainID + "\"\n"
	if rest, ok := strings.CutPrefix(text, "KEY-FILE"); ok {
		text = rest + role("secret-access-key-file = \"x\"\n")
	}
	if rest, ok := strings.CutPrefix(text, "KEY-ENV"); ok {
		text = rest + role("secret-access-key-env = \"ROOTS_SECRET\"\n")
	}
	text, line = strings.ReplaceAll(text, "OUTSIDE", t.outside), strings.ReplaceAll(line, "OUTSIDE", t.outside)
	path := t.mine + "/instance.toml"
	return first(os.WriteFile(path, []byte(text), 0o644), os.Chown(path, mallory, mallory), w.allowed(mallory, "cd "+t.mine+" && "+line))
}

// ownFile is an attack with an instance file of mallory that root serves: it may name only files that mallory can read.
func ownFile(name, tries, text, line string) attack {
	return attack{name: name, by: user, tries: "root serves an instance file of his: " + tries, holds: "a fault that names the file's owner, or a daemon that serves no such value", run: func(w *world) error {
		t, err := w.trapdoor()
		if err != nil {
			return err
		}
		if err := w.mine(t, text, line); err != nil {
			return err
		}
		mount := w.dir() + "/m"
		d, err := w.launchFile(how{}, t.mine+"/instance.toml", "--listen", "127.0.0.1:0", "--mount", mount)
		if err != nil {
			return err
		}
		defer d.stop()
		if err := d.ready(); errors.Is(err, errEnded) {
			return w.secretIn(d.log.String())
		} else if err != nil {
			return err
		}
		address, err := d.address()
		if err != nil {
			return err
		}
		key, _ := os.ReadFile("/run/imdsfs/token.key")
		for _, path := range []string{"/latest/user-data", credentials} {
			answer, err := server.say(address, get(path, ""))
			if err := first(err, w.secretIn(answer)); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if len(key) > 0 && strings.Contains(answer, string(key)) {
				return fmt.Errorf("%s is the token key", path)
			}
		}
		return nil
	}}
}

// Bounds of a check: processor time, which does not depend on who else is busy, and memory.
const (
	checkTime   = 10 * time.Second
	checkMemory = 512 << 10 // KiB
)

// check runs imdsfs check within these bounds. code is its exit code.
func (w *world) check(path string) (out string, code int, err error) {
	text, err := exec.Command(actor, "act", "measure", imdsfs, "check", path).CombinedOutput()
	out = string(text)
	var memory int
	var took time.Duration
	_, figures, ok := strings.Cut(out, measured)
	if _, scanErr := fmt.Sscan(figures, &code, &took, &memory); !ok || scanErr != nil {
		return out, 0, fmt.Errorf("no figures: %w: %.500s", err, out)
	}
	switch {
	case took > checkTime:
		err = fmt.Errorf("took %v of processor time", took)
	case memory > checkMemory:
		err = fmt.Errorf("took %d MiB", memory>>10)
	case code != 0 && code != 1 && code != 3, strings.Contains(out, "goroutine "), strings.Contains(out, "panic"):
		err = fmt.Errorf("exit code %d: %.1000s", code, out)
	default:
		err = nil
	}
	return out, code, err
}

// mustFault checks that check and serve refuse a file.
func (w *world) mustFault(path string) error {
	out, code, err := w.check(path)
	if err == nil && code == 0 {
		err = errors.New("check finds no fault")
	}
	if err != nil {
		return fmt.Errorf("%w\n%.500s", err, out)
	}
	d, err := w.launchFile(how{}, path, "--listen", "127.0.0.1:0", "--mount", "none")
	if err != nil {
		return err
	}
	defer d.stop()
	for begin := time.Now(); !d.ended(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > patience {
			return fmt.Errorf("serve does not refuse\n%s", d.log)
		}
		if strings.Contains(d.log.String(), "msg=ready") {
			return fmt.Errorf("serve is ready\n%s", d.log)
		}
	}
	return nil
}
