package fs

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A record crosses from one process to the next; FuzzInherit is about one that is none.
func FuzzInherit(f *testing.F) {
	var good bytes.Buffer
	gob.NewEncoder(&good).Encode(mountRecord{Format: format, Dir: "/run/metadata", Number: "0:1", Init: make([]byte, 104)})
	f.Add(good.Bytes(), []byte("x"), uint8(1))
	f.Add([]byte{}, []byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, mount, tree []byte, number uint8) {
		file := func(text []byte, head int) *os.File {
			fd, err := unix.MemfdCreate("fuzz", unix.MFD_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			r := os.NewFile(uintptr(fd), "record")
			sum := sha256.Sum256(text)
			r.Write(append(append(make([]byte, head), sum[:]...), text...))
			return r
		}
		device, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		pre := Inherit(map[string]*os.File{KeptDevice: device, keptMount: file(mount, counterSize), treeName(uint64(number)): file(tree, 0)})
		if pre == nil {
			t.Fatal("the device was not taken")
		}
		if pre.err == nil && pre.mount == nil && pre.record != nil {
			t.Error("a record that says nothing was taken for a good one")
		}
		pre.drop(nil)
	})
}

// What a daemon with fewer rights has kept, root does not act on.
func TestRecordsOfAnotherUserAreNotBelieved(t *testing.T) {
	kit.RequireMount(t)
	e := newKeptDoor(t, snapshotOf(t, nil))
	e.kill()
	kept := e.keeper.take()
	if err := kept[keptMount].Chown(nobody, nobody); err != nil {
		t.Fatal(err)
	}
	pre := Inherit(kept)
	if pre.mount != nil || pre.err == nil || !strings.Contains(pre.err.Error(), fmt.Sprintf("kept by uid %d", nobody)) {
		t.Errorf("inherited %+v, %v", pre.mount, pre.err)
	}
	e.mount(snapshotOf(t, nil), pre)
	if e.door.Resumed() {
		t.Error("it was continued")
	}
}
