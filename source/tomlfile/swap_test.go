package tomlfile

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestNothingIsReadThatIsSwappedIn exchanges what is on the way to a file all the time.
func TestNothingIsReadThatIsSwappedIn(t *testing.T) {
	l := newLand(t)
	l.dir("root", 0, 0o711)
	l.file("root/f", 0, 0o600, secret)
	l.dir("alice", alice, 0o755)
	for _, name := range []string{"a", "b", "e"} {
		l.dir("alice/"+name, alice, 0o755)
	}
	for _, name := range []string{"f", "a/f", "e/f"} {
		l.file("alice/"+name, alice, 0o644, "good")
	}
	l.link("../root/f", "alice/f2", alice)
	l.link(l.top+"/root/f", "alice/b/f", alice)
	l.link("e", "alice/d", alice)
	l.link("../root", "alice/d2", alice)
	l.link("../root", "alice/e2", alice)
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			for _, pair := range [][2]string{{"f", "f2"}, {"a", "b"}, {"d", "d2"}, {"e", "e2"}} {
				if err := unix.Renameat2(unix.AT_FDCWD, l.top+"/alice/"+pair[0], unix.AT_FDCWD, l.top+"/alice/"+pair[1], unix.RENAME_EXCHANGE); err != nil {
					t.Errorf("exchange %v: %v", pair, err)
					return
				}
			}
		}
	}()
	defer func() { close(stop); <-done }()

	last := 2 * time.Second
	switch {
	case os.Getenv("IMDSFS_STRESS") != "":
		last = 10 * time.Second
	case testing.Short():
		last = time.Second / 2
	}
	var files []string
	for _, uid := range []int{0, alice} {
		for _, name := range []string{"f", "a/f", "d/f", "e/f"} {
			files = append(files, l.file(fmt.Sprintf("web-%d-%d.toml", uid, len(files)), uid, 0o644, fmt.Sprintf("user-data-file = %q\n", "alice/"+name)))
		}
	}
	good, refused := map[string]int{}, map[string]int{}
	all := func(counts map[string]int) bool { return len(counts) == len(files) }
	begin := time.Now()
	for since := time.Duration(0); since < last || since < 30*time.Second && !(all(good) && all(refused)); since = time.Since(begin) {
		for _, file := range files {
			f, err := Load(file, nil)
			switch {
			case err != nil && strings.Contains(err.Error(), secret):
				t.Fatalf("%s: a fault tells it: %v", file, err)
			case err != nil:
				refused[file]++
			case string(f.Fragment.Leaves["user-data"].Bytes) != "good":
				t.Fatalf("%s: read %q after %v", file, f.Fragment.Leaves["user-data"].Bytes, since)
			default:
				good[file]++
			}
		}
	}
	if !all(good) || !all(refused) {
		t.Errorf("good: %v\nrefused: %v", good, refused)
	}
}
