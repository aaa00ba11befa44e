package main

import (
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// sandbox is a line of shell that runs the rest with defaults of its own: nothing listens, nothing
// is mounted and nothing is kept outside of its namespaces.
const sandbox = `mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mount -t tmpfs tmpfs /etc/imdsfs 2>/dev/null
ip link set lo up && ip address add 169.254.169.254/32 dev lo
ready() { for i in $(seq 200); do test -e /run/imdsfs/listen && return; kill -0 $! || exit 1; sleep 0.05; done; echo not ready; exit 1; }
`

// Every example in --help is run as it stands there, in a clone of the repository.
func TestExamplesInHelpWork(t *testing.T) {
	kit.RequireMount(t)
	kit.RequireCommand(t, "unshare")
	repository, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	root := newRootCommand(io.Discard, io.Discard)
	for _, c := range commands(root) {
		lines := examples(c)
		if len(lines) == 0 {
			t.Errorf("%s --help has no example", c.CommandPath())
		}
		for _, line := range lines {
			t.Run(strings.ReplaceAll(line, "/", "_"), func(t *testing.T) {
				script := sandbox + "imdsfs serve -c testdata/instances/web-1.toml & ready\n" + line + " || { kill $!; exit 1; }\nkill $! && wait $!"
				if strings.HasPrefix(line, "imdsfs serve") {
					script = sandbox + line + " & ready\nkill $! && wait $!"
				}
				cmd := exec.Command("unshare", "-mn", "sh", "-c", script)
				cmd.Dir = repository
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %v\n%s", line, err, out)
				}
			})
		}
	}
}

// commands returns c and all subcommands below it that users may run.
func commands(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		if sub.Runnable() && !sub.Hidden {
			all = append(all, commands(sub)...)
		}
	}
	return all
}

func examples(c *cobra.Command) []string {
	var lines []string
	for line := range strings.SplitSeq(c.Example, "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}
