package tomlfile

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// The file that the packages install explains every key: each stands in it, perhaps commented out, in its
// table and under a comment of its own or of the keys just before it.
func TestPackagedFileHasEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../contrib/package/imdsfs.toml")
	if err != nil {
		t.Fatal(err)
	}
	header := regexp.MustCompile(`^#?\[+([^\]]+)\]+$`)
	setting := regexp.MustCompile(`^#?([a-z0-9-]+) = `)
	explained := map[string]bool{}
	table, comment := "", false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if name := header.FindStringSubmatch(line); name != nil {
			top, _, nested := strings.Cut(name[1], ".")
			if table = top; nested && top == "credentials" {
				table = "credentials.NAME"
			}
			explained["."+top] = explained["."+top] || comment
			continue
		}
		if key := setting.FindStringSubmatch(line); key != nil {
			explained[table+"."+key[1]] = comment
			continue
		}
		comment = strings.HasPrefix(line, "# ")
	}
	for table, keys := range schema {
		for _, key := range keys {
			if !explained[table+"."+key] {
				t.Errorf("contrib/package/imdsfs.toml does not explain %s of [%s]", key, table)
			}
		}
	}
}
