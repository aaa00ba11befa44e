package main

import (
	"cmp"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"
)

// Who attacks.
const (
	page      = "web page"
	neighbour = "LAN neighbour"
	container = "container"
	user      = "local user"
	client    = "any client"
	bad       = "daemon gone bad"
	hog       = "resource hog"
)

// An attack is one row of the table.
type attack struct {
	name  string // unique in its group
	by    string // who attacks
	tries string // what the attack tries
	holds string // what must hold
	slow  bool   // not part of the short form
	alone bool   // not while others of its group run
	run   func(*world) error
}

// A group holds the attacks on one part.
type group struct {
	name, title string
	attacks     []attack
}

var groups = []group{
	{"host", "Host names", hostAttacks},
	{"token", "Session tokens", tokenAttacks},
	{"http", "Requests that servers read differently", httpAttacks},
	{"network", "Neighbours, containers and the hop limit", networkAttacks},
	{"metrics", "The metrics port", metricsAttacks},
	{"mount", "Local accounts and the mount", mountAttacks},
	{"account", "Local accounts and the daemon", accountAttacks},
	{"path", "Paths that somebody else owns", pathAttacks},
	{"boundary", "The daemon's user against root", boundaryAttacks},
	{"option", "Options of mount(8)", optionAttacks},
	{"file", "Instance files", fileAttacks},
	{"resource", "Exhaustion", resourceAttacks},
	{"trace", "What is left behind", traceAttacks},
}

// atOnce is the number of attacks of a group that run at the same time.
const atOnce = 3

// A tally counts the attacks and their results.
type tally struct {
	short bool
	match *regexp.Regexp

	mu        sync.Mutex
	tried     int
	succeeded []string
}

func newTally(short bool, match *regexp.Regexp) *tally { return &tally{short: short, match: match} }

// runGroup runs the attacks of a group and checks that the daemons are well.
func (t *tally) runGroup(w *world, g group) {
	var together, alone []attack
	for _, a := range g.attacks {
		switch {
		case !t.match.MatchString(g.name + "/" + a.name), t.short && a.slow:
		case a.alone:
			alone = append(alone, a)
		default:
			together = append(together, a)
		}
	}
	if len(together)+len(alone) == 0 {
		return
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for _, a := range together {
		slots <- struct{}{}
		running.Go(func() {
			t.try(w, g, a)
			<-slots
		})
	}
	running.Wait()
	for _, a := range alone {
		t.try(w, g, a)
	}
	if err := w.well(); err != nil {
		t.note(g.name, "the daemons afterwards", 0, err)
	}
}

func (t *tally) try(w *world, g group, a attack) {
	begin := time.Now()
	err := a.run(w)
	t.mu.Lock()
	t.tried++
	t.mu.Unlock()
	t.note(g.name, a.name, time.Since(begin), err)
}

func (t *tally) note(group, name string, took time.Duration, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	verdict := "ok  "
	if err != nil {
		verdict = "FAIL"
		t.succeeded = append(t.succeeded, group+"/"+name)
	}
	fmt.Printf("%s %6.2f s  %s/%s\n", verdict, took.Seconds(), group, name)
	if err != nil {
		fmt.Printf("     %s\n", strings.ReplaceAll(fmt.Sprintf("%.1200s", err.Error()), "\n", "\n     "))
	}
}

// The table is between these lines.
const (
	tableBegin = "<!-- table: go run ./testdata/attack -write -->\n"
	tableEnd   = "<!-- end of the table -->\n"
)

// table is the table as Markdown.
func table() string {
	var b strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&b, "\n### %s\n\n| attack | by | what is tried | what holds |\n|---|---|---|---|\n", g.title)
		for _, a := range g.attacks {
			fmt.Fprintf(&b, "| %s/%s | %s | %s | %s |\n", g.name, a.name, a.by, cell(a.tries), cell(a.holds))
		}
	}
	return b.String() + "\n"
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// tableIn is the table in a document.
func tableIn(text string) (before, table, after string, ok bool) {
	before, rest, begun := strings.Cut(text, tableBegin)
	table, after, ended := strings.Cut(rest, tableEnd)
	return before + tableBegin, table, tableEnd + after, begun && ended
}

func writeTable(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, _, after, ok := tableIn(string(text))
	if !ok {
		return fmt.Errorf("%s has no %q and %q", path, tableBegin, tableEnd)
	}
	return os.WriteFile(path, []byte(before+table()+after), 0o644)
}

// first returns the first error of several, without those that are nil.
func first(errs ...error) error { return cmp.Or(errs...) }
