package fs

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/hanwen/go-fuse/v2/posixtest"
	"golang.org/x/sys/unix"
)

// The cases of go-fuse's posixtest that concern reading. All but ReadDirConsistency write first what they
// then read, so the others are here again, by the same name, on a tree that is published instead.
// What is left out is about writing, renaming, links, locks for writing and extended attributes. None
// opens a file through package os, for the reason given at read.
var posixCases = map[string]func(t *testing.T, d *Door, publish func(changes map[string]string)){
	"ReadDirConsistency": func(t *testing.T, d *Door, _ func(map[string]string)) {
		posixtest.ReadDirConsistency(t, d.Dir())
		posixtest.ReadDirConsistency(t, filepath.Join(d.Dir(), "latest/meta-data"))
	},

	"FileBasic": func(t *testing.T, d *Door, publish func(map[string]string)) {
		publish(map[string]string{"file": "hello world"})
		fd := openForTest(t, posixFile(d, "file"), 0)
		if got, err := readFrom(fd); err != nil || got != "hello world" {
			t.Errorf("%q, %v", got, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != 11 || st.Mode != fuse.S_IFREG|0o444 {
			t.Errorf("%+v, %v", st, err)
		}
	},

	"FileLarge": func(t *testing.T, d *Door, publish func(map[string]string)) {
		content := pattern(128<<10 + 123)
		publish(map[string]string{"file": content})
		fd := openForTest(t, posixFile(d, "file"), 0)
		buf := make([]byte, len(content)+1000)
		if n, err := unix.Read(fd, buf); err != nil || string(buf[:n]) != content {
			t.Errorf("short read at the end: %d bytes, %v", n, err)
		}
		const off = 4096 + 7
		buf = make([]byte, 64<<10+5)
		if n, err := unix.Pread(fd, buf, off); err != nil || string(buf[:n]) != content[off:off+len(buf)] {
			t.Errorf("read in the middle: %d bytes, %v", n, err)
		}
	},

	"FdLeak": func(t *testing.T, d *Door, publish func(map[string]string)) {
		publish(map[string]string{"file": "hello world"})
		count := func() int { return len(names(t, "/proc/self/fd")) }
		before := count()
		for range 100 {
			mustRead(t, posixFile(d, "file"))
		}
		if after := count(); after > before+15 {
			t.Errorf("%d descriptors, then %d", before, after)
		}
	},

	"FstatDeleted": func(t *testing.T, d *Door, publish func(map[string]string)) {
		changes := map[string]string{}
		for i := range 10 {
			changes[fmt.Sprint(i)] = strings.Repeat("x", i+1)
		}
		publish(changes)
		type file struct {
			fd int
			st unix.Stat_t
		}
		files := map[string]file{}
		for name := range changes {
			fd, err := unix.Open(posixFile(d, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			var st unix.Stat_t
			if err := unix.Stat(posixFile(d, name), &st); err != nil {
				t.Fatal(err)
			}
			files[name] = file{fd, st}
		}
		publish(nil)
		for name, f := range files {
			var st unix.Stat_t
			if err := unix.Fstat(f.fd, &st); err != nil || st != f.st {
				t.Errorf("%s: %v\ngot  %+v\nwant %+v", name, err, st, f.st)
			}
			if _, err := os.Stat(posixFile(d, name)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", name, err)
			}
		}
	},

	"ReadDirBasic": func(t *testing.T, d *Door, publish func(map[string]string)) {
		changes := map[string]string{}
		for i := range 110 {
			changes[fmt.Sprintf("file%036x", i)] = "hello"
			publish(changes)
			want := slices.Sorted(maps.Keys(changes))
			if got := names(t, posixFile(d, "")); !slices.Equal(got, want) {
				t.Fatalf("got  %q\nwant %q", got, want)
			}
		}
	},

	"DirSeek": func(t *testing.T, d *Door, publish func(map[string]string)) {
		changes := map[string]string{}
		for i := range 168 {
			changes[fmt.Sprint(i)] = "x"
		}
		publish(changes)
		fd, err := unix.Open(posixFile(d, ""), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		all := readEntries(t, fd)
		if len(all) != 170 {
			t.Fatalf("%d entries", len(all))
		}
		for i := len(all) - 1; i >= 0; i-- {
			to := int64(0)
			if i > 0 {
				to = int64(all[i-1].Off)
			}
			if _, err := unix.Seek(fd, to, unix.SEEK_SET); err != nil {
				t.Fatal(err)
			}
			if rest := readEntries(t, fd); !slices.Equal(rest, all[i:]) {
				t.Fatalf("from entry %d: %d entries, want %d", i, len(rest), len(all)-i)
			}
		}
	},

	"LseekHoleSeeksToEOF": func(t *testing.T, d *Door, publish func(map[string]string)) {
		content := pattern(7168)
		publish(map[string]string{"file": content})
		fd := openForTest(t, posixFile(d, "file"), 0)
		if off, err := unix.Seek(fd, int64(len(content)/2), unix.SEEK_HOLE); err != nil || off != int64(len(content)) {
			t.Errorf("%d, %v", off, err)
		}
		if off, err := unix.Seek(fd, 100, unix.SEEK_DATA); err != nil || off != 100 {
			t.Errorf("%d, %v", off, err)
		}
	},

	"LseekEnxioCheck": func(t *testing.T, d *Door, publish func(map[string]string)) {
		content := pattern(7168)
		publish(map[string]string{"file": content})
		fd := openForTest(t, posixFile(d, "file"), 0)
		for _, c := range []struct {
			past   int64
			whence int
		}{{0, unix.SEEK_DATA}, {1, unix.SEEK_DATA}, {1, unix.SEEK_HOLE}} {
			if off, err := unix.Seek(fd, int64(len(content))+c.past, c.whence); err != unix.ENXIO {
				t.Errorf("%+v: %d, %v", c, off, err)
			}
		}
	},

	"ParallelFileOpen": func(t *testing.T, d *Door, publish func(map[string]string)) {
		publish(map[string]string{"file": "content"})
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if got, err := read(posixFile(d, "file")); err != nil || got != "content" {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		all.Wait()
	},

	"OpenAt": func(t *testing.T, d *Door, publish func(map[string]string)) {
		publish(map[string]string{"file": "1"})
		dir, err := unix.Open(posixFile(d, ""), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(dir)
		for _, want := range []string{"1", "two", "3"} {
			publish(map[string]string{"file": want, "new" + want: want})
			for _, name := range []string{"file", "new" + want} {
				fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					t.Fatal(err)
				}
				if got, err := readFrom(fd); err != nil || got != want {
					t.Errorf("%s: %q, %v", name, got, err)
				}
				unix.Close(fd)
			}
		}
	},

	"XAttr": func(t *testing.T, d *Door, publish func(map[string]string)) {
		publish(map[string]string{"file": "x"})
		if n, err := unix.Getxattr(posixFile(d, "file"), "user.xattrtest", make([]byte, 100)); err != unix.ENOTSUP {
			t.Errorf("%d, %v", n, err)
		}
		if n, err := unix.Listxattr(posixFile(d, "file"), make([]byte, 100)); n > 0 || err != nil && err != unix.ENOTSUP {
			t.Errorf("%d, %v", n, err)
		}
	},
}

// posixFile is a name in the directory that the cases have to themselves.
func posixFile(d *Door, name string) string {
	return filepath.Join(d.Dir(), "latest/meta-data/tags/instance", name)
}

func openForTest(t testing.TB, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func readEntries(t testing.TB, fd int) []fuse.DirEntry {
	t.Helper()
	var all []fuse.DirEntry
	buf := make([]byte, 4096)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return all
		}
		for rest := buf[:n]; len(rest) > 0; {
			var e fuse.DirEntry
			rest = rest[e.Parse(rest):]
			all = append(all, e)
		}
	}
}

// pattern is n bytes of which no two pages are alike.
func pattern(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7/3 + i>>12)
	}
	return string(b)
}

func TestPosixReading(t *testing.T) {
	for name, run := range posixCases {
		if _, ok := posixtest.All[name]; !ok {
			t.Errorf("posixtest has no %s", name)
		}
		t.Run(name, func(t *testing.T) {
			prev := snapshotOf(t, nil)
			d := mountSnapshot(t, prev)
			run(t, d, func(changes map[string]string) {
				all := map[string]string{}
				for name, text := range changes {
					all["meta-data/tags/instance/"+name] = text
				}
				next := buildFrom(t, prev, fragment(all))
				d.Publish(next)
				prev = next
			})
		})
	}
}
