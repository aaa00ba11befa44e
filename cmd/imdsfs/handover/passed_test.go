package handover

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestWhatIsNoFileIsNotTakenOver(t *testing.T) {
	t.Setenv(execVariable, fmt.Sprintf("%d a=x b=-1 c=1 d= =5 e f=99999 keeper=y g=3:4 h=%s", os.Getpid(), strings.Repeat("9", 400)))
	s, _, err := Open()
	if err != nil || len(s.Inherited()) != 0 {
		t.Errorf("%v, %v", s.Inherited(), err)
	}
	if len(s.Rejected()) < 5 {
		t.Errorf("told of: %q", s.Rejected())
	}
	if _, set := os.LookupEnv(execVariable); set {
		t.Error("it is passed on")
	}
}

// A predecessor may keep anything under the name of a text; reading a pipe would hang.
func TestOnlySealedMemoryIsReadAsText(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	s := &Store{inherited: map[string]*os.File{"pipe": r, "file": file(t, "{}")}, held: map[string]int{}}
	for _, name := range []string{"pipe", "file", "nothing"} {
		if text := s.InheritedText(name); text != nil {
			t.Errorf("%s: %q", name, text)
		}
	}
	if err := s.KeepText("text", []byte("hello")); err != nil {
		t.Fatal(err)
	}
	s.inherited["text"] = os.NewFile(uintptr(s.held["text"]), "text")
	if text := s.InheritedText("text"); string(text) != "hello" {
		t.Errorf("got %q", text)
	}
}

func TestInheritedFilesAreTakenOnce(t *testing.T) {
	s := Disabled()
	for _, name := range []string{"fs-a", "fs-b", "lock", "unknown"} {
		s.take(name, file(t, name))
	}
	if s.Take("lock") == nil || s.Take("lock") != nil || s.Take("nothing") != nil {
		t.Error("the lock is not taken exactly once")
	}
	if all := s.TakeAll("fs-"); len(all) != 2 || all["fs-a"] == nil || all["fs-b"] == nil || len(s.TakeAll("fs-")) != 0 {
		t.Errorf("taken: %v", all)
	}
	s.Discard("unknown")
	if _, kept := s.held["unknown"]; kept || len(s.Inherited()) != 0 {
		t.Errorf("left: %v", s.Inherited())
	}
	if _, kept := s.held["lock"]; !kept {
		t.Error("what is taken is no longer kept")
	}
	s.DropAll()
}

func TestNamesOfWhatIsKept(t *testing.T) {
	for name, want := range map[string]bool{
		"kept-a": true, "kept-listen-[fd00__1%eth0]_80": true, "kept-" + strings.Repeat("a", maxFDName-len(prefix)): true,
		"": false, "a": false, "kept-": false, "kept-keeper": false, "kept-a:b": false, "kept-a=b": false, "kept-a b": false,
		"kept-ä": false, "kept-\x7f": false, "kept-\n": false, "kept-" + strings.Repeat("a", maxFDName): false,
	} {
		if got := IsFDName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

func FuzzParseExec(f *testing.F) {
	f.Add("1 a=3 keeper=4 listen-127.0.0.1_80=5")
	f.Add("1 a=3 a=4 b=3 c=-1 d=2 e=0x5 f")
	f.Add("2 a=3")
	f.Fuzz(func(t *testing.T, text string) {
		kept, rejected := parseExec(text, 1)
		if len(kept) > maxPassed || len(rejected) > maxRejected+1 {
			t.Errorf("%d kept, %d rejected", len(kept), len(rejected))
		}
		for i, k := range kept {
			if k.fd < 3 || k.name != socketName && !IsFDName(FDName(k.name)) {
				t.Errorf("kept %q=%d", k.name, k.fd)
			}
			if slices.ContainsFunc(kept[:i], func(o passed) bool { return o.fd == k.fd || o.name == k.name }) {
				t.Errorf("%q=%d twice", k.name, k.fd)
			}
		}
	})
}
