// Command bench measures the mount and HTTP next to what people would use instead, checks the bounds that the project
// promises, and writes the tables of README.md.
//
//	go run ./testdata/bench -readme testdata/bench/README.md   # what `make bench` does; needs root
//	go run ./testdata/bench -only fuse                         # one section, printed only
//	go run ./testdata/bench -ci                                # fewer rounds, wider bounds
//
//	section ──▶ start the targets ──▶ visit them in rounds ──▶ medians ──▶ checks: bounds ──▶ README.md
//
// A section is a file of its own. It starts the targets, visits them in interleaved rounds whose order rotates, so that
// every disturbance of the machine affects all of them, and compares medians. Absolute times are those of the machine; the
// ratios hold elsewhere too.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/imdsfs/imdsfs/fs"
)

// A section measures the mount or HTTP. The markdown is its part of README.md without a marker. It is used even if the
// error is about missed bounds ([checks.err]).
type section struct {
	name string
	run  func(ctx context.Context, e *env) (markdown string, err error)
}

var sections = []section{
	{"fuse", benchFUSE},
	{"http", benchHTTP},
}

// An env is what the sections share.
type env struct {
	ci     bool   // fewer rounds, wider bounds
	rounds int    // how often each target is visited
	dir    string // for this run only, on a disk, open to every user; removed at the end
	imdsfs string // the binary under test
}

func main() {
	fs.ChildMain()
	only := flag.String("only", "", "run one `section` only")
	ci := flag.Bool("ci", false, "few rounds; bounds twice as wide for ratios, fifty times for durations")
	rounds := flag.Int("rounds", 31, "how often each target is visited")
	readme := flag.String("readme", "", "`file` to put the tables into, between their markers")
	hold := flag.String("hold", "", "for the program itself: mount a large tree on `dir`")
	flag.Parse()
	if *hold != "" {
		exit(holdLarge(*hold))
	}
	if *ci {
		*rounds = min(*rounds, 7)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, &env{ci: *ci, rounds: *rounds}, *only, *readme)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: error: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context, e *env, only, readme string) (err error) {
	if e.dir, err = os.MkdirTemp("/var/tmp", "imdsfs-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(e.dir)
	if err := os.Chmod(e.dir, 0o755); err != nil {
		return err
	}
	if e.imdsfs, err = e.build(ctx, "imdsfs", "cmd/imdsfs"); err != nil {
		return err
	}
	var errs []error
	found := false
	for _, s := range sections {
		if only != "" && only != s.name {
			continue
		}
		found = true
		markdown, err := s.run(ctx, e)
		fmt.Println(markdown)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
		if readme != "" && markdown != "" {
			errs = append(errs, replaceSection(readme, s.name, markdown))
		}
	}
	if !found {
		return fmt.Errorf("-only %q: no such section", only)
	}
	return errors.Join(errs...)
}

// build builds a command of this module and returns the path of the binary.
func (e *env) build(ctx context.Context, name, folder string) (string, error) {
	binary := filepath.Join(e.dir, name)
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/imdsfs/imdsfs/"+folder)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", folder, err, out)
	}
	return binary, nil
}

// replaceSection puts markdown between the markers of a section, which it adds if there are none.
func replaceSection(file, name, markdown string) error {
	begin, end := "<!-- "+name+" -->", "<!-- /"+name+" -->"
	markdown = begin + "\n\n" + strings.TrimSpace(markdown) + "\n\n" + end
	content, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	text := string(content)
	before, rest, opened := strings.Cut(text, begin)
	_, after, closed := strings.Cut(rest, end)
	switch {
	case !opened:
		text = strings.TrimRight(text, "\n") + "\n\n" + markdown + "\n"
	case !closed:
		return fmt.Errorf("%s: %s is never closed by %s", file, begin, end)
	default:
		text = before + markdown + after
	}
	return os.WriteFile(file, []byte(text), 0o644)
}
