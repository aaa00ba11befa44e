package build

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/problem"
	"github.com/imdsfs/imdsfs/source/tree"
)

// rollingRole is everything that a snapshot may hold, with credentials that are renewed.
func rollingRole() *Fragment {
	f := with(everything(), "user-data", "\x00\xff\n")
	delete(f.Leaves, "meta-data/iam/security-credentials/x") // an instance has one role
	f.Role = &Role{Name: "web", AccessKeyID: "ASIAIOSFODNN7EXAMPLE", SecretAccessKey: "hunter2", Token: "session", Origin: tree.Origin{Place: "test"}}
	return f
}

func reborn(t *testing.T, s *Snapshot) *Snapshot {
	t.Helper()
	data, err := s.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseSnapshot(data)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestASnapshotOutlivesItsProcess(t *testing.T) {
	old := build(t, nil, testEnv, rollingRole())
	again := reborn(t, old)
	want := map[string]tree.View{}
	for path, v := range old.Root().Walk() {
		want[path] = v
	}
	for path, v := range again.Root().Walk() {
		w, ok := want[path]
		delete(want, path)
		if !ok || v.IsDir() != w.IsDir() || !bytes.Equal(v.Bytes(), w.Bytes()) || v.Digest() != w.Digest() || v.Attr() != w.Attr() ||
			!v.ModTime().Equal(w.ModTime()) || v.ContentType() != w.ContentType() || v.Secret() != w.Secret() || !v.Expires().Equal(w.Expires()) ||
			!bytes.Equal(v.Listing(), w.Listing()) || v.Origin().String() != w.Origin().String() {
			t.Errorf("%s is another", path)
		}
	}
	for path := range want {
		t.Errorf("%s is missing", path)
	}
	if again.InstanceID() != old.InstanceID() || !again.Refresh().Equal(old.Refresh()) || len(again.Versions()) != len(old.Versions()) {
		t.Errorf("instance %q, refresh %v, %d versions", again.InstanceID(), again.Refresh(), len(again.Versions()))
	}
	for _, name := range ec2.OptionNames() {
		if again.Options().Text(name) != old.Options().Text(name) || again.Options().Origins[name].String() != old.Options().Origins[name].String() {
			t.Errorf("%s is %s from %s", name, again.Options().Text(name), again.Options().Origins[name])
		}
	}
	if c := Diff(old, again); !c.Empty() {
		t.Errorf("changes: %+v", c)
	}
}

// What the successor builds from the same input is the same tree: the kernel keeps all that it has.
func TestBuildingOnASnapshotOfAnotherProcess(t *testing.T) {
	old := build(t, nil, testEnv, rollingRole())
	again := reborn(t, old)
	next := build(t, again, later(time.Hour), rollingRole())
	if c := Diff(old, next); !c.Empty() {
		t.Errorf("nothing was changed, but: %+v", c)
	}
	if !sameRoot(next, again) {
		t.Error("the tree was built anew")
	}
	changed := build(t, again, later(time.Hour), with(rollingRole(), "meta-data/tier", "gold"))
	dir, before := mustFind(t, changed, "/latest/meta-data"), mustFind(t, old, "/latest/meta-data")
	if !dir.ModTime().After(before.ModTime()) {
		t.Errorf("the directory's time went from %v to %v", before.ModTime(), dir.ModTime())
	}
	if c := Diff(old, changed); len(c.Added) != 1 || len(c.Changed)+len(c.Removed) != 0 {
		t.Errorf("one value was added: %+v", c)
	}
}

func TestWhatIsNoSnapshotIsRefused(t *testing.T) {
	good, err := build(t, nil, testEnv, least()).MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"nothing": nil, "half of it": good[:len(good)/2], "something else": []byte("hello, world")} {
		if _, err := ParseSnapshot(data); err == nil {
			t.Errorf("%s is taken for a snapshot", name)
		}
	}
}

func FuzzParseSnapshot(f *testing.F) {
	fragment := &Fragment{Leaves: map[string]tree.Value{"meta-data/mac": {Bytes: []byte("06:2b:3c:4d:5e:6f")}}}
	s, err := Build(nil, testEnv, fragment)
	if err != nil {
		f.Fatal(err)
	}
	data, err := s.MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseSnapshot(data)
		if err != nil {
			return
		}
		for path, v := range s.Root().Walk() {
			if w, ok := s.Find(path); !ok || w.IsDir() != v.IsDir() {
				t.Fatalf("%q is listed and not found", path)
			}
		}
	})
}

func BenchmarkMarshal(b *testing.B) {
	s, err := Build(nil, testEnv, rollingRole())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		data, err := s.MarshalBinary()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(data)))
	}
}

func TestTheEncodingOfASnapshotForgetsNoField(t *testing.T) {
	origin := tree.Origin{Place: "web.toml:1"}
	old := &Snapshot{
		Tree: build(t, nil, testEnv, least()).Tree, instance: "i-0a1b2c3d4e5f67890", snowball: true, settings: []Setting{{"instance.platform", "snowball", origin}},
		options: Options{ec2.Options{HTTPEndpoint: true, TokensRequired: true, HopLimit: 2, HTTPProtocolIPv6: true, InstanceMetadataTags: true},
			[]string{"http-tokens"}, map[string]tree.Origin{"http-tokens": origin}},
		rolled: map[string]rolling{"role web": {[32]byte{1}, startTime}}, refresh: startTime,
		warnings: problem.Faults{{Place: "web.toml:1", Text: "odd"}},
	}
	for _, s := range []any{*old, old.options, old.options.Options, old.settings[0], old.rolled["role web"]} {
		for i, v := 0, reflect.ValueOf(s); i < v.NumField(); i++ {
			if v.Field(i).IsZero() {
				t.Fatalf("this test forgets %s of %T", v.Type().Field(i).Name, s)
			}
		}
	}
	again := reborn(t, old)
	again.Tree, again.warnings = old.Tree, old.warnings // the tree has a test of its own; warnings are made anew
	if !reflect.DeepEqual(again, old) {
		t.Errorf("saved and read again it is\n%+v\nand was\n%+v", again, old)
	}
}
