package handover

import (
	"os"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

func TestACandidateThatIsGoneHasChanged(t *testing.T) {
	base := t.TempDir()
	must(t, os.WriteFile(base+"/imdsfs", []byte("program"), 0o755))
	c, err := OpenCandidate(base + "/imdsfs")
	must(t, err, c.Unchanged(), os.Rename(base+"/imdsfs", base+"/old"))
	defer c.Close()
	if c.Unchanged() == nil {
		t.Error("that it is gone is not noticed")
	}
}

// A program from before there was --trial is asked in words that it knows.
func TestAnOlderProgramIsTriedWithCheck(t *testing.T) {
	base := t.TempDir()
	script := base + "/imdsfs"
	must(t, os.WriteFile(script, []byte(`#!/bin/sh
echo "$@" >>"$0.asked"
case "$*" in
*--trial*) echo "imdsfs: error: unknown flag: --trial" >&2; exit 2 ;;
*--newer*) echo "imdsfs: error: unknown flag: --newer" >&2; exit 2 ;;
"check --quiet bad.toml") echo "imdsfs: error: bad.toml:1" >&2; exit 3 ;;
esac
`), 0o755))
	c, err := OpenCandidate(script)
	must(t, err)
	defer c.Close()
	for _, test := range []struct {
		args         []string
		config       string
		asked, fault string
	}{
		{[]string{"serve", "-c", "good.toml"}, "good.toml", "serve --trial -c good.toml\nserve -c good.toml --help\ncheck --quiet good.toml\n", ""},
		{[]string{"serve", "-c", "bad.toml"}, "bad.toml", "serve --trial -c bad.toml\nserve -c bad.toml --help\ncheck --quiet bad.toml\n", "bad.toml:1"},
		{[]string{"serve", "--newer"}, "", "serve --trial --newer\nserve --newer --help\n", "unknown flag: --newer"},
		{[]string{"serve"}, "", "serve --trial\nserve --help\n", ""},
	} {
		err := c.tryServe(t.Context(), test.args, test.config)
		if asked := kit.ReadFile(t, script+".asked"); asked != test.asked || (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%q: %v, it was asked\n%s", test.args, err, asked)
		}
		must(t, os.Remove(script+".asked"))
	}
}

func TestWhatTriedProgramsSayIsBounded(t *testing.T) {
	var b firstBytes
	for range 1000 {
		if n, err := b.Write(make([]byte, 999)); n != 999 || err != nil {
			t.Fatal(n, err)
		}
	}
	if len(b.text) != maxOutput {
		t.Errorf("%d bytes", len(b.text))
	}
}
