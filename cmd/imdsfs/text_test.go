package main

import (
	"errors"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/problem"
)

// Errors hold texts of files, names and daemons of others, and are read in root's terminal.
func TestErrorsAreShownWithoutEscapes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{errors.New("a\x1b[31mb\u009b1mc"), `imdsfs: error: a\x1b[31mb\u009b1mc` + "\n"},
		{errors.New("two\nimdsfs: hint: lines"), "imdsfs: error: two\n  imdsfs: hint: lines\n"},
		{problem.Failed("paste \x1b]0;this\a", errors.New("no")), `imdsfs: error: no` + "\n" + `imdsfs: hint: paste \x1b]0;this\a` + "\n"},
		{problem.Faults{{Place: "f.toml", Key: "tags.\u009b", Text: "odd"}}, "imdsfs: error: f.toml: tags." + `\u009b` + ": odd\n"},
		{lines{"one\x1bc", "two"}, `imdsfs: error: one\x1bc` + "\nimdsfs: error: two\n"},
	} {
		var b strings.Builder
		report(&b, c.err)
		if b.String() != c.want {
			t.Errorf("%q: shown as %q, want %q", c.err, b.String(), c.want)
		}
	}
}
