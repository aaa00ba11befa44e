package token

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
	"golang.org/x/sys/unix"
)

func mustOpen(t *testing.T, dir, bootID string) *Authority {
	t.Helper()
	clock := clock.NewManual(time.Unix(0, 0))
	a, err := open(dir, bootID, clock)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// shareKey reports whether a token of a is valid for b.
func shareKey(a, b *Authority) bool {
	_, ok := b.Verify(instance, a.Issue(instance, 60))
	return ok
}

func TestTokensOutliveARestart(t *testing.T) {
	dir := t.TempDir()
	before, err := Open(dir, clock.System())
	if err != nil {
		t.Fatal(err)
	}
	after, err := Open(dir, clock.System())
	if err != nil {
		t.Fatal(err)
	}
	if !shareKey(before, after) {
		t.Error("a token issued before the restart is refused after it")
	}
}

func TestTokensEndWithTheBoot(t *testing.T) {
	dir := t.TempDir()
	first := mustOpen(t, dir, "boot-1")
	second := mustOpen(t, dir, "boot-2")
	if shareKey(first, second) {
		t.Error("a token of another boot is good")
	}
	if !shareKey(second, mustOpen(t, dir, "boot-2")) {
		t.Error("the new key was not kept")
	}
}

func TestKeyFileIsPrivateAndLeavesNoOtherFile(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, "boot-1")
	mustOpen(t, dir, "boot-2")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].Name() != "token.key" {
		t.Fatalf("the directory holds %v, want token.key alone", entries)
	}
	info, err := entries[0].Info()
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

func TestUntrustworthyKeyFileIsReplaced(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"readable by the group": func(p string) error { return os.Chmod(p, 0o640) },
		"readable by all":       func(p string) error { return os.Chmod(p, 0o604) },
		"empty":                 func(p string) error { return os.Truncate(p, 0) },
		"cut short":             func(p string) error { return os.Truncate(p, 50) },
		"too long":              func(p string) error { return appendTo(p, strings.Repeat("0", 1<<20)) },
		"one byte more":         func(p string) error { return appendTo(p, "00") },
		"not hex":               func(p string) error { return os.WriteFile(p, []byte("boot-1\n"+strings.Repeat("x", 64)+"\n"), 0o600) },
		"a symbolic link": func(p string) error {
			if err := os.Rename(p, p+".real"); err != nil {
				return err
			}
			return os.Symlink(p+".real", p)
		},
		"a fifo": func(p string) error {
			if err := os.Remove(p); err != nil {
				return err
			}
			return unix.Mkfifo(p, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, keyName)
			first := mustOpen(t, dir, "boot-1")
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			second := mustOpen(t, dir, "boot-1")
			if shareKey(first, second) {
				t.Error("the key is still used")
			}
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o600 {
				t.Errorf("the new file has mode %v, want a regular one with 0600", info.Mode())
			}
			if !shareKey(second, mustOpen(t, dir, "boot-1")) {
				t.Error("the new key was not kept")
			}
		})
	}
}

func appendTo(path, text string) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(text)
	return err
}

func TestOpenNamesWhatItCannotWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "absent")
	if _, err := Open(dir, clock.System()); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v, want one that names %s", err, dir)
	}

	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, keyName, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, clock.System()); err == nil || !strings.Contains(err.Error(), keyName) {
		t.Errorf("error %v, want one that names %s", err, keyName)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, keyName+".*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func FuzzReadKey(f *testing.F) {
	const boot = "0c6d0c5e-0f4e-4a53-8d62-6a6c4f3b9c11"
	dir := f.TempDir()
	if _, err := open(dir, boot, clock.System()); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(dir, keyName))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(boot + "\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), keyName)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := readKey(path, boot); err == nil && !strings.HasPrefix(string(text), boot+"\n") {
			t.Errorf("a key of another boot was taken from %q", text)
		}
	})
}
