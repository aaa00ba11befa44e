package mountpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const nobody = 65534 // uid and gid

func TestClaimFilesOfOthersAreRefused(t *testing.T) {
	kit.RequireMount(t)
	dir := t.TempDir()
	for name, put := range map[string]func(path string) error{
		"a link": func(path string) error { return os.Symlink("/etc/passwd", path) },
		"a FIFO": func(path string) error { return unix.Mkfifo(path, 0o600) },
		"a hard link": func(path string) error {
			return errors.Join(os.WriteFile(dir+"/x", nil, 0o600), os.Link(dir+"/x", path))
		},
		"of nobody's": func(path string) error {
			return errors.Join(os.WriteFile(path, nil, 0o600), os.Chown(path, nobody, nobody))
		},
		"a directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"a short text": func(path string) error { return os.WriteFile(path, []byte("{"), 0o600) },
	} {
		c, err := openClaim("/mnt/x", dir, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := put(c.path()); err != nil {
			t.Fatal(err)
		}
		err = c.acquire(true)
		if good := name == "a short text"; good != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		if c.text.Made || c.text.Mount != nil {
			t.Errorf("%s: it says %+v", name, c.text)
		}
		c.close()
		os.RemoveAll(c.path())
	}
}

// Whoever waits for the lock of a claim that is being released gets the next one, not the one that is gone.
func TestALockIsOfTheFileThatHasTheName(t *testing.T) {
	dir := t.TempDir()
	first, err := openClaim("/mnt/x", dir, 0)
	if err == nil {
		err = first.acquire(true)
	}
	if err != nil {
		t.Fatal(err)
	}
	second, err := openClaim("/mnt/x", dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer second.close()
	if err := second.acquire(true); !errors.Is(err, ErrServed) {
		t.Fatalf("the lock is had twice: %v", err)
	}
	gone, err := os.Open(first.path())
	if err == nil {
		err = first.release()
	}
	if err != nil {
		t.Fatal(err)
	}
	if locked, err := second.try(gone); locked || err != nil {
		t.Errorf("locked what is gone: %v, %v", locked, err)
	}
	gone.Close()
	if err := second.acquire(true); err != nil {
		t.Error(err)
	}
}

func FuzzClaim(f *testing.F) {
	f.Add([]byte("made\n"))
	f.Add([]byte(`{"runtime-dir":"/run/imdsfs","dir":"/run/metadata","uid":1,"made":true,"mount":{"unique":1,"id":"1","device":"0:1"}}` + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		said, ok := parseClaim(text)
		if ok && (!filepath.IsAbs(said.Dir) || !filepath.IsAbs(said.RuntimeDir)) {
			t.Errorf("%q is believed: %+v", text, said)
		}
	})
}
