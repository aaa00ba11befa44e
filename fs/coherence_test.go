package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/source"
)

// payload carries its version at both ends and has a length of its own.
func payload(version int64) string {
	return fmt.Sprintf("%d %s %d", version, strings.Repeat("x", int(version*7919%9000)), version)
}

func versionOf(text string) (int64, bool) {
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return 0, false
	}
	version, err := strconv.ParseInt(fields[0], 10, 64)
	return version, err == nil && text == payload(version)
}

// TestNoProcessSeesAnOldValueAfterPublish changes a value, its length and the names beside it as fast
// as it can while others read, list and stat, and the kernel drops its caches.
func TestNoProcessSeesAnOldValueAfterPublish(t *testing.T) {
	duration := 2 * time.Second
	if text := os.Getenv("IMDSFS_STRESS"); text != "" {
		var err error
		if duration, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	next := func(prev *source.Snapshot, version int64) *source.Snapshot {
		return build(t, prev, "meta-data/tags/instance/value", payload(version), "meta-data/tags/instance/other", "same",
			fmt.Sprintf("meta-data/tags/instance/n%d", version), "name")
	}
	prev := next(nil, 0)
	d := mountSnapshot(t, prev)
	dir := filepath.Join(d.Dir(), "latest/meta-data/tags/instance")
	file := filepath.Join(dir, "value")
	var published, reads atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	loop := func(pause time.Duration, step func()) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(pause):
					step()
				}
			}
		})
	}
	for range 2 {
		loop(0, func() {
			least := published.Load()
			text, err := read(file)
			version, ok := versionOf(text)
			reads.Add(1)
			if err != nil || !ok || version < least {
				t.Errorf("after version %d: read %.20q… (%d bytes), %v", least, text, len(text), err)
			}
		})
	}
	loop(0, func() {
		least := published.Load()
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		var st unix.Stat_t
		first, _ := readFrom(fd)
		unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
		again, _ := readFrom(fd)
		if err := unix.Fstat(fd, &st); err != nil || first != again || st.Size != int64(len(first)) {
			t.Errorf("after version %d: a descriptor read %d, then %d bytes, of %d; %v", least, len(first), len(again), st.Size, err)
		}
	})
	loop(0, func() {
		least := published.Load()
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Error(err)
			return
		}
		newest, steady := int64(-1), 0
		for _, e := range entries {
			switch name := e.Name(); name {
			case "value", "other":
				steady++
			default:
				version, _ := strconv.ParseInt(name[1:], 10, 64)
				newest = max(newest, version)
			}
		}
		if steady != 2 || newest < least {
			t.Errorf("after version %d: listed %v", least, entries)
		}
	})
	loop(5*time.Millisecond, func() {
		// Directories and their attributes are looked up anew, in the middle of a publish.
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
			t.Error(err)
		}
	})

	version := int64(0)
	for end := time.Now().Add(duration); time.Now().Before(end) && !t.Failed(); {
		version++
		prev = next(prev, version)
		d.Publish(prev)
		published.Store(version)
		want, _ := prev.Find("/latest/meta-data/tags/instance")
		if info, err := os.Stat(dir); err != nil || !info.ModTime().Equal(want.ModTime()) {
			t.Errorf("version %d: the directory's time is not the snapshot's: %v", version, err)
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d versions, %d reads, %v", version, reads.Load(), d.Requests())
	if version < 20 || reads.Load() < 100 {
		t.Errorf("too few to mean anything: %d versions, %d reads", version, reads.Load())
	}
}
