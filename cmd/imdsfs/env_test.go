package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A shell reads exactly the value; that systemd does is tested with the packages.
func TestAShellReadsWhatIsQuoted(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	for _, shell := range [][]string{{"sh"}, {"bash"}, {"bash", "--posix"}} {
		kit.RequireCommand(t, shell[0])
		for _, value := range []string{
			"", "plain-1.example", "a b", " a ", "\ta\t", "$HOME $(id) ${x}", "`id`", `"a"`, `'a'`, `a\b`, `\`, `\\`, `\n`, `\$`, "a\nb", "\n", "a\n\n",
			"\\\n", "\r\n", "#a", ";a", "a #b", "!a", "~", "*", "%h", "=", "a=b", "(a)", "[a]", "{a,b}", "a&b|c<d>e", "é—ü", "\u2028", "\x1b[31m", "\x7f",
		} {
			must(t, os.WriteFile(file, []byte("HOSTNAME="+quote(value)+"\nREGION="+quote("eu-west-1")+"\n"), 0o600))
			script := append(shell[1:], "-c", `set -u; . "$1"; printf %s "$HOSTNAME,$REGION"`, "sh", file)
			if got, err := exec.Command(shell[0], script...).CombinedOutput(); string(got) != value+",eu-west-1" || err != nil {
				t.Errorf("%v reads %q as %q, %v", shell, value, got, err)
			}
		}
	}
}

func TestADocumentWithoutARegionLeavesItOut(t *testing.T) {
	for document, want := range map[string]string{
		`{"region": null}`: client.ErrNotFound.Error(), `{}`: client.ErrNotFound.Error(), `{"region": 1}`: client.ErrNotFound.Error(), `{"region": "x"}`: "",
		`[]`: "the instance identity document is no JSON object", ``: "the instance identity document is no JSON object",
	} {
		got := ""
		if _, err := member([]byte(document), "region"); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", document, got, want)
		}
	}
}
