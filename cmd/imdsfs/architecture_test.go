package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	modulePath    = "github.com/imdsfs/imdsfs"
	mostFields    = 15
	mostFuncLines = 80
)

// A goPackage is what go list tells of a package of ours.
type goPackage struct {
	ImportPath, Dir, Doc string
	GoFiles, Imports     []string
}

func goPackages(t *testing.T) (all []goPackage) {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,Doc,GoFiles,Imports", "./...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return all
		case err != nil:
			t.Fatal(err)
		case len(p.GoFiles) > 0:
			p.ImportPath = strings.TrimPrefix(p.ImportPath, modulePath+"/")
			all = append(all, p)
		}
	}
}

// floors are the rows of the table of packages in CONTRIBUTING.md, top to bottom: a package → the number of its row.
func floors(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("../../CONTRIBUTING.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(text), "| packages |")
	if !found {
		t.Fatal("CONTRIBUTING.md has no table of packages")
	}
	floors := map[string]int{}
	name := regexp.MustCompile("`([a-z0-9/]+)`")
	for i, line := range strings.Split(table, "\n")[1:] {
		if !strings.HasPrefix(line, "|") {
			break
		}
		for _, m := range name.FindAllStringSubmatch(strings.Split(line, "|")[1], -1) {
			if _, twice := floors[m[1]]; twice {
				t.Errorf("%s is twice in the table", m[1])
			}
			floors[m[1]] = i
		}
	}
	return floors
}

// A package imports only from its own floor and from floors below it; the doors do not know each other, and nobody but
// a command knows a command.
func TestImportsGoDown(t *testing.T) {
	table, seen := floors(t), map[string]bool{}
	for _, p := range goPackages(t) {
		own, ok := table[p.ImportPath]
		if seen[p.ImportPath] = true; !ok {
			t.Errorf("%s is not in the table of CONTRIBUTING.md", p.ImportPath)
		}
		for _, path := range p.Imports {
			path, ours := strings.CutPrefix(path, modulePath+"/")
			floor, ok := table[path]
			switch {
			case !ours:
			case !ok:
				t.Errorf("%s imports %s, which is not in the table", p.ImportPath, path)
			case floor < own:
				t.Errorf("%s imports %s, which is on a floor above it", p.ImportPath, path)
			case isDoor(p.ImportPath, "fs") && isDoor(path, "imds"), isDoor(p.ImportPath, "imds") && isDoor(path, "fs"):
				t.Errorf("%s imports %s: the doors do not know each other", p.ImportPath, path)
			}
		}
	}
	for path := range table {
		if !seen[path] {
			t.Errorf("%s is in the table of CONTRIBUTING.md, and there is no such package", path)
		}
	}
}

func isDoor(path, door string) bool { return path == door || strings.HasPrefix(path, door+"/") }

// Each package says in its comment what it is for. Which way its data takes is for a reader to check.
func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range goPackages(t) {
		if len(p.Doc) < 20 {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}

// Package tree knows nothing of what is in it, also not in examples.
func TestTheTreeHasNoWordOfEC2(t *testing.T) {
	word := regexp.MustCompile(`(?i)ec2|imds\b|meta-data|user-data|public.key|instance|availability|region`)
	files, err := filepath.Glob("../../source/tree/*.go")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %v, %v", files, err)
	}
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		for i, line := range strings.Split(kit.ReadFile(t, name), "\n") {
			if found := word.FindString(line); found != "" && !strings.HasPrefix(line, "\t\"") {
				t.Errorf("%s:%d: %s", name, i+1, found)
			}
		}
	}
}

func TestFunctionsAndStructsStaySmall(t *testing.T) {
	for _, p := range goPackages(t) {
		for _, name := range p.GoFiles {
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(file, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if lines := set.Position(n.End()).Line - set.Position(n.Pos()).Line + 1; lines > mostFuncLines {
						t.Errorf("%s: %s has %d lines", set.Position(n.Pos()), n.Name.Name, lines)
					}
				case *ast.TypeSpec:
					if s, ok := n.Type.(*ast.StructType); ok {
						if fields := s.Fields.NumFields(); fields > mostFields {
							t.Errorf("%s: %s has %d fields", set.Position(n.Pos()), n.Name.Name, fields)
						}
					}
				}
				return true
			})
		}
	}
}
