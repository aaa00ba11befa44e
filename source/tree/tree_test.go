package tree

import (
	"bytes"
	"crypto/sha256"
	"encoding/gob"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// grow makes a tree of paths and their values; a path that ends in "@VERSION" came with that version.
func grow(prev *Tree, at time.Time, pairs ...string) *Tree {
	leaves := map[string]Leaf{}
	for i := 0; i < len(pairs); i += 2 {
		path, since, _ := strings.Cut(pairs[i], "@")
		leaves[path] = Leaf{Value: Value{Bytes: []byte(pairs[i+1]), Mtime: at}, Since: since, ContentType: textPlain}
	}
	return New(prev, Input{
		Versions: []string{"1.0", "2020-01-01"}, Paths: slices.Sorted(maps.Keys(leaves)), Now: at,
		Leaf: func(path string) Leaf { return leaves[path] },
		Dir: func(path string) Dir {
			styles := map[string]*Style{"": {Bare: true, Always: "z"}, "keys": {Numbered: true}, "keys/10": {Label: "10=ten"}}
			return Dir{Attr: Attr{Mode: 0o555}, Style: styles[path]}
		},
		Top: Dir{Attr: Attr{Mode: 0o555}, Style: &Style{Bare: true}},
	})
}

func TestListings(t *testing.T) {
	tree := grow(nil, now, "a/b", "1", "a/c/d", "2", "keys/10/k", "x", "keys/9/k", "y", "new@2020-01-01", "3")
	for path, want := range map[string]string{
		"/":                "1.0 2020-01-01 latest",
		"/latest":          "a keys new z",
		"/1.0":             "a keys z",
		"/latest/a":        "b c/",
		"/latest/keys":     "9/ 10=ten",
		"/2020-01-01//a/c": "d",
	} {
		v, ok := tree.Find(path)
		if got := strings.ReplaceAll(string(v.Listing()), "\n", " "); !ok || got != want {
			t.Errorf("%s lists %q, want %q", path, got, want)
		}
	}
	for _, path := range []string{"/1.0/new", "/3000-01-01", "/latest/z", "/latest/a/b/c"} {
		if _, ok := tree.Find(path); ok {
			t.Errorf("%s is there", path)
		}
	}
}

func TestWhatIsTheSameIsShared(t *testing.T) {
	old := grow(nil, now, "a/b", "1", "c/d", "2")
	same := grow(old, now.Add(time.Hour), "a/b", "1", "c/d", "2")
	if same.root != old.root {
		t.Error("nothing has changed, but the tree is another")
	}
	next := grow(same, now.Add(time.Hour), "a/b", "1", "c/d", "3")
	if next.root.child("a") != old.root.child("a") || next.root.child("c") == old.root.child("c") {
		t.Error("shared is what changed, or not what did not")
	}
	change := Diff(old, next)
	if !slices.Equal(change.Changed, []string{"c/d"}) || !slices.Equal(change.Dirs, []string{"c"}) || len(change.Added)+len(change.Removed) > 0 {
		t.Errorf("changed: %+v", change)
	}
	if from, to := old.root.child("c").mtime, next.root.child("c").mtime; !to.After(from) {
		t.Errorf("the directory's time went from %v to %v", from, to)
	}
	first := Diff(nil, old)
	if len(first.Added) != 5 || first.Empty() {
		t.Errorf("from nothing: %+v", first)
	}
}

// unfilled are the fields of a struct that are zero, but for those in except.
func unfilled(v any, except ...string) (names []string) {
	s := reflect.ValueOf(v).Elem()
	for i := range s.NumField() {
		if name := s.Type().Field(i).Name; s.Field(i).IsZero() && !slices.Contains(except, name) {
			names = append(names, name)
		}
	}
	return names
}

func TestTheEncodingForgetsNoField(t *testing.T) {
	origin := Origin{Kind: Derived, Place: "p", Key: "k", From: []string{"f"}}
	leaf := &node{
		since: "2020-01-01", mtime: now, origin: origin, attr: Attr{Mode: 0o400, UID: 1, GID: 2}, bytes: []byte("secret"),
		contentType: "text/html", secret: true, expires: now.Add(time.Hour),
	}
	leaf.digest = sha256.Sum256(leaf.bytes)
	dir := &node{
		dir: true, since: "2020-01-01", mtime: now, origin: origin, attr: Attr{Mode: 0o555, UID: 1, GID: 2}, edges: []edge{{"leaf", leaf}},
		contentType: "text/html", secret: true, expires: now.Add(time.Hour), style: &Style{Label: "0=l", Numbered: true, Bare: true, Always: "user-data"},
	}
	if zero := append(append(unfilled(leaf, "dir", "edges", "style"), unfilled(dir, "bytes", "digest")...), unfilled(dir.style)...); zero != nil {
		t.Fatalf("this test forgets %v", zero)
	}
	top := &node{dir: true, mtime: now, style: &Style{Bare: true}, edges: []edge{{"1.0", dir}, {Latest, dir}}}
	tree := &Tree{top: top, root: dir, versions: []string{"1.0"}, stamp: now.Add(time.Minute)}
	if zero := unfilled(tree); zero != nil {
		t.Fatalf("this test forgets %v", zero)
	}
	var b bytes.Buffer
	if err := gob.NewEncoder(&b).Encode(tree.Save()); err != nil {
		t.Fatal(err)
	}
	var saved Saved
	if err := gob.NewDecoder(&b).Decode(&saved); err != nil {
		t.Fatal(err)
	}
	again, err := saved.Tree()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(again, tree) {
		t.Errorf("saved and read again it is\n%+v\nand was\n%+v", again.root, tree.root)
	}
}
