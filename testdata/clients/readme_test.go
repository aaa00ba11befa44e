package clients

import (
	"os"
	"strings"
	"testing"
)

const readmeHead = `# Clients

Unmodified clients, run by ` + "`go test`" + ` here against ` + "`imdsfs serve`" + ` in a network namespace that owns 169.254.169.254:80,
with ` + "`http-tokens`" + ` optional and required. The requests of each are in ` + "`golden/`" + `. This file and those are written by

    go test -run TestClients -update     # as root, with IMDSFS_BIN=…/bin/imdsfs

amazon-vpc-cni-k8s is not among them: its package that reads the metadata (` + "`pkg/awsutils`" + `) brings 800 others, 500 of
them Kubernetes', and the small one (` + "`pkg/ec2metadatawrapper`" + `) brings the whole API of EC2, two minutes of compiling, for
two calls of aws-sdk-go-v2's ` + "`imds`" + `. Paths as it asks for them (a directory without slash) are in that client's tests.

| client | version | what it does | tokens optional | tokens required |
|---|---|---|---|---|
`

// A row is a line of the table of README.md.
type row struct {
	client
	version string
	results map[string]string // by mode
}

func (r row) String() string {
	return "| " + strings.Join([]string{r.title, r.version, r.what, r.results["optional"], r.results["required"]}, " | ") + " |\n"
}

// compareReadme checks the rows of the clients that ran, and with all of them the whole file.
func compareReadme(t *testing.T, table []client, done map[string]row) {
	t.Helper()
	text := readmeHead
	for _, c := range table {
		if r, ok := done[c.name]; ok {
			text += r.String()
		}
	}
	const path = "README.md"
	if *update {
		if len(done) < len(table) {
			t.Fatalf("%s is not rewritten: only %d of %d clients ran", path, len(done), len(table))
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; -update writes it", err)
	}
	have := withoutVersions(string(file))
	for _, r := range done {
		if !strings.Contains(have, withoutVersions(r.String())) {
			t.Errorf("%s lacks this row (-update rewrites it):\n%s", path, r)
		}
	}
	if len(done) == len(table) && have != withoutVersions(text) {
		t.Errorf("%s differs from what -update writes:\n%s", path, difference(have, withoutVersions(text)))
	}
}

// withoutVersions empties the second column of a table.
func withoutVersions(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, " | "); len(cells) > 2 {
			cells[1] = ""
			line = strings.Join(cells, " | ")
		}
		b.WriteString(line)
	}
	return b.String()
}
