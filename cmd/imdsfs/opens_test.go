package main

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source/tomlfile"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// An openCounter counts how often files in a folder are opened, by inotify.
type openCounter struct {
	t    *testing.T
	fd   int
	name string
}

func countOpens(t *testing.T, path string) *openCounter {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err == nil {
		// inotify makes one of two events that are the same and follow each other: the closes keep the opens apart.
		_, err = unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_OPEN|unix.IN_CLOSE_NOWRITE)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return &openCounter{t, fd, filepath.Base(path)}
}

// opens is how often the file was opened since the last call.
func (c *openCounter) opens() (n int) {
	c.t.Helper()
	buffer := make([]byte, 64<<10)
	for {
		size, err := unix.Read(c.fd, buffer)
		if err == unix.EAGAIN {
			return n
		}
		if err != nil {
			c.t.Fatal(err)
		}
		for rest := buffer[:size]; len(rest) >= unix.SizeofInotifyEvent; {
			mask, length := binary.NativeEndian.Uint32(rest[4:]), binary.NativeEndian.Uint32(rest[12:])
			name := rest[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+length]
			if mask&unix.IN_OPEN != 0 && string(bytes.TrimRight(name, "\x00")) == c.name {
				n++
			}
			rest = rest[unix.SizeofInotifyEvent+length:]
		}
	}
}

func TestTheFileIsReadOnceAtTheStartAndOnceAReload(t *testing.T) {
	file := write(t, "web.toml", least("", ""))
	counter := countOpens(t, file)
	for range 2 {
		if _, err := tomlfile.Load(file, nil); err != nil {
			t.Fatal(err)
		}
	}
	twice := counter.opens() // some kernels tell of the way to it as well
	once := twice / 2
	if once == 0 || twice%2 != 0 {
		t.Fatalf("two readings are noticed as %d", twice)
	}
	d := serve(t, file, false)
	if n := counter.opens(); n != once {
		t.Errorf("opened %d times at the start; reading it once is %d", n, once)
	}
	admin := func(args ...string) {
		t.Helper()
		var out, errs bytes.Buffer
		if code := run(append(args, "--runtime-dir", d.runtime), &out, &errs); code != 0 {
			t.Fatalf("exit %d: %s%s", code, out.String(), errs.String())
		}
	}
	admin("reload")
	if n := counter.opens(); n != once {
		t.Errorf("opened %d times for a reload; reading it once is %d", n, once)
	}
	rewrite(t, file, least("", "tier = 'gold'"))
	kit.Eventually(t, "the change is served", func() bool { return d.ask("GET", "/latest/meta-data/tier").body == "gold" })
	admin("reload") // whatever the change has started has ended
	if n := counter.opens(); n != 2*once {
		t.Errorf("opened %d times for a change and a reload; reading it once is %d", n, once)
	}
}
