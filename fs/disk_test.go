package fs

import (
	"fmt"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// mountFile mounts a tree with one file of its own and returns its path.
func mountFile(t testing.TB, content string) string {
	t.Helper()
	d := mountSnapshot(t, snapshotOf(t, nil, "meta-data/file", content))
	return filepath.Join(d.Dir(), "latest/meta-data/file")
}

func TestReadsAtAnyOffsetThroughTheKernel(t *testing.T) {
	content := pattern(3*4096 + 17)
	path := mountFile(t, content)
	// With O_DIRECT, of which no OPEN tells us, the kernel asks for each read anew.
	for name, flags := range map[string]int{"cached": 0, "direct": unix.O_DIRECT} {
		fd := openForTest(t, path, flags)
		for _, offset := range []int64{0, 1, 511, 512, 4095, 4096, 4097, int64(len(content)) - 1, int64(len(content)), int64(len(content)) + 1, 1 << 40, 1<<63 - 1<<20} {
			for _, size := range []int{0, 1, 3, 4095, 4096, 4097, len(content), 1 << 18} {
				from := min(offset, int64(len(content)))
				to := min(from+int64(size), int64(len(content)))
				buf := make([]byte, size)
				n, err := unix.Pread(fd, buf, offset)
				if err != nil || string(buf[:n]) != content[from:to] {
					t.Errorf("%s: %d bytes at %d: %d, %v; want %d", name, size, offset, n, err, to-from)
				}
			}
		}
		if n, err := unix.Pread(fd, make([]byte, 1), -1); err != unix.EINVAL {
			t.Errorf("%s: at -1: %d, %v", name, n, err)
		}
	}
}

func TestDirectReadsOfAHeldDescriptor(t *testing.T) {
	first := snapshotOf(t, nil, "meta-data/file", "old value")
	d := mountSnapshot(t, first)
	path := filepath.Join(d.Dir(), "latest/meta-data/file")
	fd := openForTest(t, path, unix.O_DIRECT)
	d.Publish(snapshotOf(t, first, "meta-data/file", "a new and longer value"))
	before := d.Requests()["READ"]
	if got, err := readFrom(fd); err != nil || got != "old value" {
		t.Errorf("the held one: %q, %v", got, err)
	}
	if got, err := readFrom(openForTest(t, path, unix.O_DIRECT)); err != nil || got != "a new and longer value" {
		t.Errorf("a new one: %q, %v", got, err)
	}
	if d.Requests()["READ"] == before {
		t.Error("no READ reached us: this was not direct")
	}
}

// mapped is what a mapping holds, read inside a system call: a page fault of our own would tie up a
// processor of the Go runtime, which has to answer it.
func mapped(t testing.TB, mem []byte) string {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "mapped"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if n, err := unix.Pwrite(int(out.Fd()), mem, 0); err != nil || n != len(mem) {
		t.Fatalf("%d bytes of the mapping, %v", n, err)
	}
	text, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestMmap(t *testing.T) {
	content := pattern(5*4096 + 100)
	old := snapshotOf(t, nil, "meta-data/file", content)
	d := mountSnapshot(t, old)
	fd := openForTest(t, filepath.Join(d.Dir(), "latest/meta-data/file"), 0)
	for name, flags := range map[string]int{"shared": unix.MAP_SHARED, "private": unix.MAP_PRIVATE} {
		mem, err := unix.Mmap(fd, 0, len(content), unix.PROT_READ, flags)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if mapped(t, mem) != content {
			t.Errorf("%s: other bytes", name)
		}
		old = snapshotOf(t, old, "meta-data/file", "new "+name)
		d.Publish(old)
		if err := unix.Madvise(mem, unix.MADV_DONTNEED); err != nil {
			t.Error(err)
		}
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Error(err)
		}
		if mapped(t, mem) != content {
			t.Errorf("%s: other bytes after the value was replaced and its pages evicted", name)
		}
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != unix.EACCES {
		t.Errorf("mapped for writing: %v", err)
	}
	if _, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE); err != unix.EPERM {
		t.Errorf("mapped for execution: %v", err)
	}
}

// TestCopiesInsideTheKernel copies with the calls that servers and cp use.
func TestCopiesInsideTheKernel(t *testing.T) {
	content := pattern(200_003)
	path := mountFile(t, content)
	target := func(t *testing.T) *os.File {
		f, err := os.Create(filepath.Join(t.TempDir(), "copy"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	// all repeats a call that moves a part until it moves nothing.
	all := func(t *testing.T, move func() (int, error)) {
		for {
			n, err := move()
			if err != nil {
				t.Fatal(err)
			}
			if n == 0 {
				return
			}
		}
	}
	for name, copyTo := range map[string]func(t *testing.T, out, in int){
		"sendfile": func(t *testing.T, out, in int) {
			all(t, func() (int, error) { return unix.Sendfile(out, in, nil, 1<<20) })
		},
		"splice": func(t *testing.T, out, in int) {
			var pipe [2]int
			if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pipe[0])
			defer unix.Close(pipe[1])
			all(t, func() (int, error) {
				n, err := unix.Splice(in, nil, pipe[1], nil, 1<<16, 0)
				for left := n; left > 0 && err == nil; {
					var m int64
					m, err = unix.Splice(pipe[0], nil, out, nil, int(left), 0)
					left -= m
				}
				return int(n), err
			})
		},
		"copy_file_range": func(t *testing.T, out, in int) {
			all(t, func() (int, error) {
				n, err := unix.CopyFileRange(in, nil, out, nil, 1<<20, 0)
				if err == unix.EXDEV || err == unix.EOPNOTSUPP { // a refusal that every program expects
					return unix.Sendfile(out, in, nil, 1<<20)
				}
				return n, err
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			out := target(t)
			copyTo(t, int(out.Fd()), openForTest(t, path, 0))
			got, err := os.ReadFile(out.Name())
			if err != nil || string(got) != content {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}

func TestThousandsOfOpenDescriptors(t *testing.T) {
	const count = 5000
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	kit.Require(t, limit.Cur >= count+200, fmt.Sprintf("a limit of %d open files (ulimit -n says %d)", count+200, limit.Cur))
	prev := snapshotOf(t, nil, tags(100)...)
	d := mountSnapshot(t, prev)
	dir := filepath.Join(d.Dir(), "latest/meta-data/tags/instance")
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	for i := range count {
		if i%1000 == 999 { // every thousand holds values of its own
			changes := tags(100)
			for j := 1; j < len(changes); j += 2 {
				changes[j] = fmt.Sprintf("%d after %d", j/2, i)
			}
			prev = snapshotOf(t, prev, changes...)
			d.Publish(prev)
		}
		fd, err := unix.Open(fmt.Sprintf("%s/k%05d", dir, i%100), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatalf("descriptor %d: %v", i, err)
		}
		fds = append(fds, fd)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Fatal(err)
	}
	for i, fd := range fds {
		want := fmt.Sprint(i % 100)
		if turn := (i + 1) / 1000; turn > 0 {
			want = fmt.Sprintf("%d after %d", i%100, turn*1000-1)
		}
		if got, err := readFrom(fd); err != nil || got != want {
			t.Fatalf("descriptor %d: %q, %v; want %q", i, got, err, want)
		}
	}
}

// tagCharacters are what EC2 allows in the keys of tags that are shown in the metadata.
const tagCharacters = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_+=,.@:"

func TestNamesWithEveryLegalTagCharacter(t *testing.T) {
	keys := []string{tagCharacters, "...", strings.Repeat("x", 255), strings.Repeat(tagCharacters, 4)[:255]}
	for _, c := range tagCharacters {
		keys = append(keys, string(c)+"x", "x"+string(c))
		if c != '.' {
			keys = append(keys, string(c))
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	f := fragment(nil)
	f.Options = map[string]tree.Value{ec2.OptionInstanceMetadataTags: {Bytes: []byte("enabled"), Mtime: fileTime}}
	f.Tags = map[string]tree.Value{}
	for _, key := range keys {
		f.Tags[key] = tree.Value{Bytes: []byte("value of " + key), Mtime: fileTime}
	}
	s := buildFrom(t, nil, f)
	d := mountSnapshot(t, s)
	dir := filepath.Join(d.Dir(), "latest/meta-data/tags/instance")
	if got := names(t, dir); !slices.Equal(got, keys) {
		t.Errorf("listed\n%q, want\n%q", got, keys)
	}
	for _, key := range keys {
		if got := mustRead(t, dir+"/"+key); got != "value of "+key {
			t.Errorf("%q: %q", key, got)
		}
	}
	if err := unix.Access(dir+"/"+strings.Repeat("x", 256), unix.F_OK); err != unix.ENAMETOOLONG {
		t.Errorf("a name of 256 bytes: %v", err)
	}
}

// A face is what stat and readdir say of a place.
type face struct {
	ino, listed uint64
	mode        uint32
	size        int64
	mtime       unix.Timespec
	content     string
}

// faces reads a whole mount.
func faces(t testing.TB, dir string) map[string]face {
	t.Helper()
	all := map[string]face{}
	err := filepath.WalkDir(dir, func(path string, e iofs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		f := all[path]
		f.ino, f.mode, f.size, f.mtime = st.Ino, st.Mode, st.Size, st.Mtim
		if e.IsDir() {
			for _, e := range readEntries(t, openForTest(t, path, unix.O_DIRECTORY)) {
				if e.Name != "." && e.Name != ".." {
					all[path+"/"+e.Name] = face{listed: e.Ino}
				}
			}
		} else {
			f.content = mustRead(t, path)
		}
		all[path] = f
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestInodeNumbersAgreeAndStayOverARestart(t *testing.T) {
	kit.RequireMount(t)
	dir, runtimeDir := filepath.Join(t.TempDir(), "mnt"), t.TempDir()
	unmountLater(t, dir)
	look := func() map[string]face {
		d, err := Mount(Config{Dir: dir, RuntimeDir: runtimeDir}, snapshotOf(t, nil, tags(300)...))
		if err != nil {
			t.Fatal(err)
		}
		all := faces(t, dir)
		// A second look is from the kernel's caches.
		if again := faces(t, dir); fmt.Sprint(again) != fmt.Sprint(all) {
			t.Error("a second look differs from the first")
		}
		if err := d.Unmount(); err != nil {
			t.Error(err)
		}
		return all
	}
	before := look()
	numbers := map[uint64]string{}
	for path, f := range before {
		if path != dir && f.ino != f.listed {
			t.Errorf("%s: stat says inode %d, readdir %d", path, f.ino, f.listed)
		}
		if other, ok := numbers[f.ino]; ok {
			t.Errorf("%s and %s have one inode number", path, other)
		}
		numbers[f.ino] = path
	}
	if len(before) < 500 {
		t.Fatalf("only %d places", len(before))
	}
	after := look()
	for path, f := range before {
		if after[path] != f {
			t.Errorf("%s: %+v before, %+v after the restart", path, f, after[path])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d places before, %d after", len(before), len(after))
	}
}

func TestExecutionIsRefused(t *testing.T) {
	path := mountFile(t, "#!/bin/sh\necho no\n")
	// Through a shell: until a program is started, a processor of the Go runtime waits for the kernel.
	if out, err := run(t, os.Getuid(), "sh", "-c", path); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("%q, %v", out, err)
	}
}
