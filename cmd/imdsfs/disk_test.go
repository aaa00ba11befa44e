package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// httpCopy writes what HTTP shows below path as files and directories, and returns where.
func httpCopy(t *testing.T, d *served, path string) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "http")
	for at, p := range crawl(t, d) {
		rel, ok := strings.CutPrefix(at, path)
		if !ok {
			continue
		}
		to := root + rel
		if p.dir {
			if err := os.MkdirAll(to, 0o755); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, []byte(p.body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// shell runs a script with the arguments as $1, $2 …, and returns what it printed.
func shell(t *testing.T, script string, args ...string) string {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-euo", "pipefail", "-c", script, "bash"}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "TZ=UTC"}
	var complaints bytes.Buffer
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil || complaints.Len() > 0 {
		t.Fatalf("%s %q: %v\n%.2000s", script, args, err, complaints.String())
	}
	return string(out)
}

// stats are mode, owner, size and time of all below a directory, as stat(1) shows them.
func stats(t *testing.T, dir string) string {
	t.Helper()
	return shell(t, `cd "$1"; find . -print0 | sort -z | xargs -0 stat -c '%n %F %a %u %g %s %.Y'`, dir)
}

// TestToolsTakeTheMountForADisk runs the programs that people look at, copy and search disks with.
func TestToolsTakeTheMountForADisk(t *testing.T) {
	kit.RequireCommand(t, "rsync")
	d := serve(t, instances+"/m5-two-interfaces.toml", true)
	tree := d.mount + "/latest"
	want := stats(t, tree)
	copied := func(name, script string) {
		t.Run(name, func(t *testing.T) {
			to := filepath.Join(t.TempDir(), "copy")
			if err := os.Mkdir(to, 0o755); err != nil {
				t.Fatal(err)
			}
			shell(t, script, tree, to)
			shell(t, `diff -r "$1" "$2"`, tree, to)
			got := stats(t, to)
			// Directories have a size of their own on each file system.
			dirs := regexp.MustCompile(`(?m)^(\S+ directory .*) \d+ (\S+)$`)
			got, want := dirs.ReplaceAllString(got, "$1 $2"), dirs.ReplaceAllString(want, "$1 $2")
			if got != want {
				t.Errorf("the copy has\n%s\nwant\n%s", got, want)
			}
		})
	}
	copied("cp -a", `cp -a "$1/." "$2"`)
	copied("rsync -a", `rsync -a "$1/" "$2/"; test -z "$(rsync -ai --checksum "$1/" "$2/")"`)
	copied("tar", `tar -C "$1" --format=pax -cf - . | tar -C "$2" -xpf -; tar -C "$1" -cf "$2.tar" .; tar -C "$1" --compare -f "$2.tar"`)

	t.Run("diff -r", func(t *testing.T) { shell(t, `diff -r "$1" "$2"`, tree, httpCopy(t, d, "/latest")) })
	t.Run("sha256sum", func(t *testing.T) {
		const sums = `cd "$1"; find . -type f -print0 | sort -z | xargs -0 sha256sum`
		if here, there := shell(t, sums, tree), shell(t, sums, httpCopy(t, d, "/latest")); here != there || here == "" {
			t.Errorf("on the mount\n%s\nover HTTP\n%s", here, there)
		}
	})

	files := walk(t, tree)
	t.Run("ls -lR", func(t *testing.T) {
		out := shell(t, `ls -lR "$1"`, tree)
		listed := 0
		for path, p := range files {
			switch {
			case p.dir:
				if !strings.Contains(out, tree+path+":\n") {
					t.Errorf("%s is not listed", path)
				}
			default:
				listed++
				if !regexp.MustCompile(fmt.Sprintf(`(?m)^-r.* +%d .* %s$`, p.size, regexp.QuoteMeta(filepath.Base(path)))).MatchString(out) {
					t.Errorf("%s with %d bytes is not listed", path, p.size)
				}
			}
		}
		if n := strings.Count(out, "\n-r"); n != listed {
			t.Errorf("%d files listed, want %d", n, listed)
		}
	})
	t.Run("find -size", func(t *testing.T) {
		for _, size := range []int64{0, 9, 17} {
			var want []string
			for path, p := range files {
				if !p.dir && p.size == size {
					want = append(want, tree+path)
				}
			}
			slices.Sort(want)
			if got := strings.Fields(shell(t, `find "$1" -type f -size "$2"c | sort`, tree, fmt.Sprint(size))); !slices.Equal(got, want) {
				t.Errorf("%d bytes: %q, want %q", size, got, want)
			}
		}
	})
	t.Run("grep -r", func(t *testing.T) {
		var want []string
		for path, p := range files {
			if !p.dir && strings.Contains(p.body, "eu-") {
				want = append(want, tree+path)
			}
		}
		slices.Sort(want)
		if got := strings.Fields(shell(t, `grep -rl eu- "$1" | sort || true`, tree)); !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
	t.Run("du and df", func(t *testing.T) {
		apparent, blocks := int64(0), int64(0)
		for _, p := range files {
			if !p.dir {
				apparent += p.size
				blocks += (p.size + 511) / 512 * 512
			}
		}
		if got := shell(t, `find "$1" -type f -print0 | du -bc --files0-from=- | tail -1 | cut -f1`, tree); strings.TrimSpace(got) != fmt.Sprint(apparent) {
			t.Errorf("du -b: %s, want %d", got, apparent)
		}
		if got := shell(t, `du -s -B1 "$1" | cut -f1`, tree); strings.TrimSpace(got) != fmt.Sprint(blocks) {
			t.Errorf("du: %s, want %d", got, blocks)
		}
		f := strings.Fields(shell(t, `df -B1 --output=fstype,avail,pcent,size,target "$1" | tail -1`, tree))
		if want := []string{"fuse.imdsfs", "0", "-", "0", d.mount}; !slices.Equal(f, want) {
			t.Errorf("df: %q, want %q, as of proc", f, want)
		}
		if got := strings.TrimSpace(shell(t, `stat -f -c '%T %l' "$1"`, tree)); got != "fuseblk 255" && got != "fuse 255" {
			t.Errorf("stat -f: %q", got)
		}
	})
}

// cold has the kernel forget all directories and inodes, and returns how long f takes then: the median
// of three.
func cold(t *testing.T, f func()) time.Duration {
	t.Helper()
	var took []time.Duration
	for range 3 {
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		f()
		took = append(took, time.Since(start))
	}
	slices.SortFunc(took, cmp.Compare)
	return took[1]
}

// resident is the daemon's memory by a key of /proc/PID/status, in MiB.
func resident(t *testing.T, d *served, key string) int {
	t.Helper()
	for line := range strings.Lines(kit.ReadFile(t, fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid))) {
		var kib int
		if _, err := fmt.Sscanf(line, key+": %d kB", &kib); err == nil {
			return kib >> 10
		}
	}
	t.Fatalf("no %s", key)
	return 0
}

// TestTenThousandTags: `make bench`, which has the machine to itself, asserts a hundredth of the bound.
func TestTenThousandTags(t *testing.T) {
	const count, bound = 10_000, 20 * time.Second
	var text strings.Builder
	text.WriteString(least("", "") + "[metadata-options]\ninstance-metadata-tags = \"enabled\"\n[tags]\n")
	for i := range count {
		fmt.Fprintf(&text, "key-%05d = \"value of %d\"\n", i, i)
	}
	d := serve(t, write(t, "tags.toml", text.String()), true)
	dir := d.mount + "/latest/meta-data/tags/instance"
	for _, flags := range []string{"-1", "-l"} {
		lines := 0
		took := cold(t, func() { lines = strings.Count(shell(t, `ls "$1" "$2"`, flags, dir), "key-") })
		t.Logf("ls %s of %d names, cold: %v; the daemon has %d MiB, had %d", flags, count, took, resident(t, d, "VmRSS"), resident(t, d, "VmHWM"))
		if lines != count || took > bound {
			t.Errorf("ls %s: %d lines in %v, want %d in %v", flags, lines, took, count, bound)
		}
	}
	if got := strings.Count(d.ask("GET", stressed+"/").body, "\n") + 1; got != count {
		t.Errorf("HTTP lists %d names", got)
	}
	shell(t, `for i in 00000 04999 09999; do test "$(cat "$1/key-$i")" = "value of $((10#$i))"; done`, dir)
}

// TestWalkingIsNotDisturbedByReloads: what stays is found by every walk, while other values come and go.
func TestWalkingIsNotDisturbedByReloads(t *testing.T) {
	file := write(t, "web.toml", least("", `x0 = "0"`))
	d := serve(t, file, true)
	stop := make(chan struct{})
	walked := make(chan int)
	go func() {
		n := 0
		defer func() { walked <- n }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			seen := map[string]bool{}
			err := filepath.WalkDir(d.mount+"/latest", func(path string, e fs.DirEntry, err error) error {
				seen[e.Name()] = true
				if os.IsNotExist(err) && strings.HasPrefix(e.Name(), "x") {
					return nil
				}
				return err
			})
			if err != nil || !seen["instance-id"] || !seen["availability-zone"] || !seen["mac"] {
				t.Errorf("a walk: %v, %d places", err, len(seen))
			}
			n++
		}
	}()
	for i := range 20 {
		d.reload(file, least("", fmt.Sprintf("x%d = \"%d\"", i+1, i)), "msg=reloaded")
	}
	close(stop)
	if n := <-walked; n < 20 {
		t.Errorf("only %d walks", n)
	}
	if err := syscall.Access(d.mount+"/latest/meta-data/x20", 4); err != nil {
		t.Error(err)
	}
}
