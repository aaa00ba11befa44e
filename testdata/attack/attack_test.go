package main

import (
	"os"
	"strings"
	"testing"
)

// The table in SECURITY.md is that of the program, row for row.
func TestSecurityDocumentHasTheTable(t *testing.T) {
	text, err := os.ReadFile("../../" + document)
	if err != nil {
		t.Fatal(err)
	}
	_, written, _, ok := tableIn(string(text))
	if !ok {
		t.Fatalf("%s has no table", document)
	}
	rows := func(table string) map[string]bool {
		all := map[string]bool{}
		for line := range strings.Lines(table) {
			if strings.HasPrefix(line, "| ") {
				all[line] = true
			}
		}
		return all
	}
	inCode, inDocument := rows(table()), rows(written)
	for row := range inCode {
		if !inDocument[row] {
			t.Errorf("only in the code: %s", row)
		}
	}
	for row := range inDocument {
		if !inCode[row] {
			t.Errorf("only in %s: %s", document, row)
		}
	}
	if written != table() {
		t.Error("run: go run ./testdata/attack -write")
	}
}

func TestEveryAttackSaysWhatItIs(t *testing.T) {
	seen, short := map[string]bool{}, map[string]int{}
	for _, g := range groups {
		for _, a := range g.attacks {
			name := g.name + "/" + a.name
			if a.name == "" || a.by == "" || a.tries == "" || a.holds == "" || a.run == nil {
				t.Errorf("%s is not complete", name)
			}
			if seen[name] {
				t.Errorf("there are two %s", name)
			}
			seen[name] = true
			if !a.slow {
				short[g.name]++
			}
		}
		if short[g.name] < 3 {
			t.Errorf("the short form has %d attacks of %s, want 3 at least", short[g.name], g.name)
		}
	}
	if len(seen) < 8+60 {
		t.Errorf("only %d attacks", len(seen))
	}
}
