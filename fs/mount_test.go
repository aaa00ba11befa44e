package fs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// compare walks the mount and the snapshot side by side.
func compare(t *testing.T, dir string, s *source.Snapshot) {
	t.Helper()
	want := map[string]source.View{}
	for path, v := range s.Root().Walk() {
		want[path] = v
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		v := want[rel]
		delete(want, rel)
		if rel == "." {
			v = s.Root()
		} else if v == (source.View{}) {
			t.Errorf("%s is on the mount only", rel)
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		if info.IsDir() != v.IsDir() || uint32(info.Mode().Perm()) != v.Attr().Mode || !info.ModTime().Equal(v.ModTime()) ||
			st.Uid != v.Attr().UID || st.Gid != v.Attr().GID {
			t.Errorf("%s: %v %v uid %d, want %o %v", rel, info.Mode(), info.ModTime(), st.Uid, v.Attr().Mode, v.ModTime())
		}
		if v.IsDir() {
			return nil
		}
		text, err := read(path)
		if err != nil || text != string(v.Bytes()) || info.Size() != int64(len(text)) {
			t.Errorf("%s: %q, size %d, %v; want %q", rel, text, info.Size(), err, v.Bytes())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range want {
		t.Errorf("%s is not on the mount", path)
	}
}

func TestMountShowsTheSnapshotInEveryVersion(t *testing.T) {
	s := build(t, nil, append(tags(300), "meta-data/big", strings.Repeat("0123456789abcdef", 20_000), "meta-data/zero\u00e9 x", "1")...)
	d := mountSnapshot(t, s)
	compare(t, d.Dir(), s)
	compare(t, d.Dir(), s) // from the kernel's caches
	next := build(t, s, "meta-data/big", "small", "meta-data/mac", "", "meta-data/new/sub/leaf", "1")
	d.Publish(next)
	compare(t, d.Dir(), next)
}

// TestDfShowsNothingThatAlarms: as proc, no blocks and no files, and "-" in place of a share that is used.
func TestDfShowsNothingThatAlarms(t *testing.T) {
	d := mountSnapshot(t, build(t, nil))
	for _, args := range [][]string{{"-P"}, {"-P", "-i"}} {
		fields := func(dir string) []string {
			out, err := run(t, os.Getuid(), "df", append(args, dir)...)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			if err != nil || len(lines) != 2 {
				t.Fatalf("%v: %s", err, out)
			}
			return strings.Fields(lines[1])[1:5]
		}
		want := []string{"0", "0", "0", "-"}
		if got := fields(d.Dir()); !slices.Equal(got, want) {
			t.Errorf("df %v: %q", args, got)
		}
		if got := fields("/proc"); !slices.Equal(got, want) {
			t.Errorf("df %v of proc: %q", args, got)
		}
	}
}

func TestMountIsHardened(t *testing.T) {
	d := mountSnapshot(t, build(t, nil))
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, " "+d.Dir()+" ") {
			continue
		}
		mount, super, _ := strings.Cut(line, " - ")
		if !strings.Contains(mount, " ro,nosuid,nodev,noexec") {
			t.Errorf("options of the mount: %s", mount)
		}
		if !strings.HasPrefix(super, "fuse.imdsfs imdsfs rw,") || !strings.Contains(super, "default_permissions") || !strings.Contains(super, "allow_other") {
			t.Errorf("options of the superblock: %s", super)
		}
		return
	}
	t.Fatal("not in mountinfo")
}

// hot uses the mount in the ways that must not cost a request.
func hot(t *testing.T, dir string) {
	t.Helper()
	for _, version := range []string{"latest", "2021-03-23"} {
		meta := filepath.Join(dir, version, "meta-data")
		if mustRead(t, filepath.Join(meta, "mac")) != standard["meta-data/mac"] {
			t.Error("wrong content")
		}
		for _, name := range names(t, meta) {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(meta, name), &st); err != nil {
				t.Error(err)
			}
		}
		if err := unix.Access(filepath.Join(meta, "nothing"), unix.R_OK); err != unix.ENOENT {
			t.Error(err)
		}
	}
}

func TestHotUseCostsNoRequest(t *testing.T) {
	d := mountSnapshot(t, build(t, nil))
	commands := func() {
		for _, args := range [][]string{{"cat", d.Dir() + "/latest/meta-data/mac"}, {"ls", "-l", d.Dir() + "/latest/meta-data"}, {"ls", d.Dir() + "/latest"}} {
			if out, err := run(t, 0, args[0], args[1:]...); err != nil {
				t.Fatalf("%v: %v: %s", args, err, out)
			}
		}
	}
	before, begin := map[string]uint64(nil), time.Now()
	for rounds := 0; rounds < 10; {
		for range 3 {
			hot(t, d.Dir())
			commands()
		}
		drops := cacheDrops(t)
		before = d.Requests()
		for range 100 {
			hot(t, d.Dir())
		}
		commands()
		after := d.Requests()
		same := fmt.Sprint(after) == fmt.Sprint(before)
		if !same {
			<-time.After(time.Second) // the kernel counts when it has dropped all
		}
		if cacheDrops(t) != drops { // another test has had the kernel forget what it knew
			if time.Since(begin) > 5*kit.Patience {
				t.Fatal("somebody writes to /proc/sys/vm/drop_caches all the time")
			}
			continue
		}
		rounds++
		if !same {
			t.Errorf("requests before %v\nand after      %v", before, after)
		}
	}
	if before["LOOKUP"] == 0 || before["READ"] == 0 || before["READDIR"]+before["READDIRPLUS"] == 0 {
		t.Errorf("nothing was counted: %v", before)
	}
}

func TestPublishShowsAtOnce(t *testing.T) {
	first := build(t, nil, "meta-data/tags/instance/a", "1")
	d := mountSnapshot(t, first)
	meta := filepath.Join(d.Dir(), "latest/meta-data")
	mac := filepath.Join(meta, "mac")
	tagDir := filepath.Join(meta, "tags/instance")
	prev := first
	mtime := func(path string) time.Time {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	for i := range 100 {
		value := fmt.Sprintf("06:00:00:00:00:%02x", i)
		name := fmt.Sprintf("b%d", i)
		// The kernel knows the old value, the listings, and that the new name does not exist.
		mustRead(t, mac)
		names(t, meta)
		if err := unix.Access(filepath.Join(tagDir, name), unix.F_OK); err != unix.ENOENT {
			t.Fatalf("%s: %v", name, err)
		}
		before := mtime(tagDir)

		prev = build(t, prev, "meta-data/tags/instance/a", "1", "meta-data/mac", value, "meta-data/tags/instance/"+name, "new")
		d.Publish(prev)
		if got := mustRead(t, mac); got != value {
			t.Fatalf("publish %d: %q", i, got)
		}
		if got := mustRead(t, filepath.Join(tagDir, name)); got != "new" {
			t.Fatalf("publish %d: the new name reads %q", i, got)
		}
		if got := names(t, tagDir); !slices.Equal(got, []string{"a", name}) {
			t.Fatalf("publish %d: %q", i, got)
		}
		if i > 0 {
			if err := unix.Access(filepath.Join(tagDir, fmt.Sprintf("b%d", i-1)), unix.F_OK); err != unix.ENOENT {
				t.Fatalf("publish %d: the old name: %v", i, err)
			}
		}
		if after := mtime(tagDir); !after.After(before) {
			t.Fatalf("publish %d: the directory's time went from %v to %v", i, before, after)
		}
	}
	compare(t, d.Dir(), prev)
}

func TestOpenDescriptorKeepsWhatItOpened(t *testing.T) {
	old := strings.Repeat("old value ", 900)
	first := build(t, nil, "meta-data/x", old)
	d := mountSnapshot(t, first)
	path := filepath.Join(d.Dir(), "latest/meta-data/x")
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	prev := first
	for i := range 20 {
		value := fmt.Sprint("value ", i)
		prev = build(t, prev, "meta-data/x", value)
		d.Publish(prev)
		if got := mustRead(t, path); got != value {
			t.Fatalf("%q instead of %q", got, value)
		}
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Fatal(err)
		}
		if got, err := readFrom(fd); err != nil || got != old {
			t.Fatalf("the descriptor reads %q, %v", got, err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != int64(len(old)) {
			t.Fatalf("the descriptor has size %d, %v", st.Size, err)
		}
	}
	// And back: the old value is the old inode again.
	d.Publish(build(t, prev, "meta-data/x", old))
	if got := mustRead(t, path); got != old {
		t.Fatalf("changed back: %q", got)
	}
}

func TestKernelForgetsWhatWasReplaced(t *testing.T) {
	prev := build(t, nil)
	d := mountSnapshot(t, prev)
	path := filepath.Join(d.Dir(), "latest/meta-data/x")
	for i := range 300 {
		prev = build(t, prev, "meta-data/x", fmt.Sprint(i))
		d.Publish(prev)
		mustRead(t, path)
	}
	kit.Eventually(t, "the old inodes are forgotten", func() bool { return d.Inodes() < 100 })
}

func TestGatedDirectoryComesAndGoes(t *testing.T) {
	both := build(t, nil)
	d := mountSnapshot(t, both)
	dated := filepath.Join(d.Dir(), "2009-04-04/meta-data")
	latest := filepath.Join(d.Dir(), "latest/meta-data/placement/region")
	there := func() bool {
		_, err := os.Stat(filepath.Join(dated, "placement"))
		return err == nil && slices.Contains(names(t, dated), "placement")
	}
	prev := both
	for i := range 5 {
		if !there() {
			t.Fatalf("round %d: not there", i)
		}
		prev = build(t, prev, "meta-data/placement/availability-zone", "", "meta-data/placement/availability-zone-id", "euw1-az2")
		d.Publish(prev)
		if there() || mustRead(t, latest) != "eu-west-1" {
			t.Fatalf("round %d: still there", i)
		}
		prev = build(t, prev)
		d.Publish(prev)
	}
}

func TestVersionsComeAndGo(t *testing.T) {
	with := func(prev *source.Snapshot, versions string) *source.Snapshot {
		f := fragment(nil)
		f.Instance = map[string]source.Value{"versions": {Bytes: []byte(versions), Mtime: fileTime}}
		return buildFrom(t, prev, f)
	}
	one := with(nil, "1.0\n2009-04-04")
	d := mountSnapshot(t, one)
	if got := names(t, d.Dir()); !slices.Equal(got, []string{"1.0", "2009-04-04", "latest"}) {
		t.Fatalf("%q", got)
	}
	two := with(one, "1.0\n2021-03-23")
	mustRead(t, filepath.Join(d.Dir(), "2009-04-04/meta-data/instance-id"))
	os.Stat(filepath.Join(d.Dir(), "2021-03-23")) // remembered as missing
	d.Publish(two)
	if got := names(t, d.Dir()); !slices.Equal(got, []string{"1.0", "2021-03-23", "latest"}) {
		t.Fatalf("%q", got)
	}
	compare(t, d.Dir(), two)
	if _, err := os.Stat(filepath.Join(d.Dir(), "2009-04-04")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old version: %v", err)
	}
}

// TestMountsOnADirectorySurvivePublish: dropping a directory's entry would detach them.
func TestMountsOnADirectorySurvivePublish(t *testing.T) {
	first := build(t, nil)
	d := mountSnapshot(t, first)
	on := filepath.Join(d.Dir(), "latest/meta-data/placement")
	if err := unix.Mount("none", on, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, on)
	uid := uint32(7)
	f := fragment(map[string]string{"meta-data/placement/group-name": "g", "meta-data/mac": "06:00:00:00:00:01"})
	f.Access = []source.AccessRule{{Path: "meta-data/placement", UID: &uid}}
	d.Publish(buildFrom(t, first, f))
	if !isMounted(t, on) {
		t.Error("a mount on a directory was detached by a publish")
	}
	if got := mustRead(t, filepath.Join(d.Dir(), "latest/meta-data/mac")); got != "06:00:00:00:00:01" {
		t.Errorf("%q", got)
	}
}

func TestBindMountSeesThePublish(t *testing.T) {
	first := build(t, nil)
	d := mountSnapshot(t, first)
	bind := t.TempDir()
	if err := unix.Mount(filepath.Join(d.Dir(), "latest/meta-data"), bind, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	unmountLater(t, bind)
	mustRead(t, filepath.Join(bind, "mac"))
	d.Publish(build(t, first, "meta-data/mac", "06:00:00:00:00:09"))
	if got := mustRead(t, filepath.Join(bind, "mac")); got != "06:00:00:00:00:09" {
		t.Errorf("through the bind mount: %q", got)
	}
	// After the end nothing is left to read through it, cached or not.
	if err := d.Unmount(); err != nil {
		t.Fatal(err)
	}
	if got, err := read(filepath.Join(bind, "mac")); err == nil {
		t.Errorf("after the end the bind mount reads %q", got)
	}
}

func TestOnlyTheModeDecidesWhoReads(t *testing.T) {
	d := mountSnapshot(t, build(t, nil))
	secret, public := filepath.Join(d.Dir(), "latest/user-data"), filepath.Join(d.Dir(), "latest/meta-data/mac")
	// The way down to the mount is a temporary directory for us alone.
	for dir := filepath.Dir(d.Dir()); dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mustRead(t, secret) // the kernel has it
	if out, err := run(t, nobody, "/bin/cat", secret); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("nobody reads user-data: %q, %v", out, err)
	}
	if out, err := run(t, nobody, "/bin/cat", public); err != nil || out != standard["meta-data/mac"] {
		t.Errorf("nobody cannot read the mac: %q, %v", out, err)
	}
	if out, err := run(t, 0, "/bin/cat", secret); err != nil || out != standard["user-data"] {
		t.Errorf("root: %q, %v", out, err)
	}
}

func TestTheMountIsReadOnly(t *testing.T) {
	d := mountSnapshot(t, build(t, nil))
	dir := filepath.Join(d.Dir(), "latest/meta-data")
	file := filepath.Join(dir, "mac")
	open := func(path string, flags int) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o600)
		if err == nil {
			unix.Close(fd)
		}
		return err
	}
	for name, err := range map[string]error{
		"write":    open(file, unix.O_WRONLY),
		"append":   open(file, unix.O_RDWR|unix.O_APPEND),
		"truncate": unix.Truncate(file, 0),
		"create":   open(filepath.Join(dir, "new"), unix.O_CREAT|unix.O_WRONLY),
		"mkdir":    unix.Mkdir(filepath.Join(dir, "new"), 0o755),
		"unlink":   unix.Unlink(file),
		"rename":   unix.Rename(file, file+"2"),
		"link":     unix.Link(file, file+"2"),
		"symlink":  unix.Symlink("x", file+"2"),
		"chmod":    unix.Chmod(file, 0o777),
		"chown":    unix.Chown(file, 1, 1),
		"utimes":   unix.Utimes(file, make([]unix.Timeval, 2)),
	} {
		if err != unix.EROFS {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := d.Requests()["refused"]; n != 0 {
		t.Errorf("%d of these reached us: the mount itself is writable", n)
	}
}
