package daemon

import (
	"os"
	"testing"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// rewrite replaces a file as editors do.
func rewrite(t testing.TB, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path))
}
