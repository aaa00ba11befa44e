package overlay

import (
	"context"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

func loadFor(t testing.TB, o *Overlay, id string) *build.Fragment {
	t.Helper()
	f, err := o.LoadFor(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// setFor keeps an option and a tag for one instance.
func setFor(t testing.TB, o *Overlay, id, hops string) {
	t.Helper()
	d := o.Draft(id)
	d.Set(Options, hopOption, []byte(hops), noon)
	d.Set(Tags, "Of", []byte(id), noon)
	commit(t, d)
}

func TestChangesAreInForceForTheirInstanceAlone(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir)
	setFor(t, o, "i-a", "2")
	setFor(t, o, "i-b", "3")
	d := o.Draft("")
	d.Remove(Values, "meta-data/mac", noon)
	commit(t, d)
	for when, o := range map[string]*Overlay{"running": o, "opened again": open(t, dir)} {
		for id, hops := range map[string]string{"i-a": "2", "i-b": "3"} {
			f := loadFor(t, o, id)
			if !maps.Equal(texts(f.Options), map[string]string{hopOption: hops}) || !maps.Equal(texts(f.Tags), map[string]string{"Of": id}) || len(f.Removed) > 0 {
				t.Errorf("%s, of %s: %q %q %q", when, id, texts(f.Options), texts(f.Tags), f.Removed)
			}
			if o.Len(id) != 2 || len(o.Entries(id, Tags)) != 1 {
				t.Errorf("%s: %d changes of %s", when, o.Len(id), id)
			}
		}
		if f := loadFor(t, o, ""); len(f.Options)+len(f.Tags) > 0 || !slices.Equal(f.Removed, []string{"meta-data/mac"}) {
			t.Errorf("%s, without an id: %+v", when, f)
		}
		if f := loadFor(t, o, "i-c"); !f.RunTime || len(f.Options)+len(f.Tags)+len(f.Removed) > 0 {
			t.Errorf("%s: a new instance has %+v", when, f)
		}
		if got := o.Others("i-a"); !slices.Equal(got, []string{"", "i-b"}) {
			t.Errorf("%s: the others are %q", when, got)
		}
	}
}

func TestAllOfAnInstanceIsForgottenByKind(t *testing.T) {
	dir := t.TempDir()
	o := open(t, dir)
	setFor(t, o, "i-a", "2")
	setFor(t, o, "i-b", "3")
	d := o.Draft("i-a")
	d.ResetAll("i-b", Tags)
	if got := texts(d.Fragment().Options); got[hopOption] != "2" {
		t.Errorf("the draft states %q", got)
	}
	if o.Len("i-b") != 2 {
		t.Error("a draft changes what is kept")
	}
	commit(t, d)
	if o := open(t, dir); o.Len("i-a") != 2 || o.Len("i-b") != 1 || len(o.Entries("i-b", Options)) != 1 {
		t.Errorf("%d and %d are left", o.Len("i-a"), o.Len("i-b"))
	}
	d = o.Draft("i-a")
	for _, k := range Kinds() {
		d.ResetAll("i-b", k)
	}
	commit(t, d)
	if o := open(t, dir); len(o.Others("i-a")) > 0 || o.Len("i-a") != 2 {
		t.Errorf("left: %q", o.Others("i-a"))
	}
}

// ids is a source that states an instance id.
type ids string

func (ids) Name() string { return "file" }

func (id ids) Load(context.Context) (*build.Fragment, error) {
	return &build.Fragment{Leaves: map[string]tree.Value{"meta-data/instance-id": {Bytes: []byte(id)}}}, nil
}

// format1 is a file of a version that names no instance.
const format1 = `{
  "format": 1,
  "options": {"http-put-response-hop-limit": {"value": "Mw==", "time": "2026-03-01T12:00:00Z", "by": "uid 0"}},
  "tags": {"Old": {"time": "2026-03-01T12:00:00Z", "by": "uid 0", "removed": true}},
  "values": {}
}
`

func TestTheFirstInstanceGetsWhatNamesNone(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(Path(dir), []byte(format1), 0o600); err != nil {
		t.Fatal(err)
	}
	o := open(t, dir)
	if !o.Unowned() || o.Len("i-a") != 2 || len(o.Others("i-a")) > 0 {
		t.Errorf("unowned %v, %d of i-a, others %q", o.Unowned(), o.Len("i-a"), o.Others("i-a"))
	}
	if got := texts(loadFor(t, o, "i-a").Options)[hopOption]; got != "3" {
		t.Errorf("hop limit %q before it is adopted", got)
	}
	if text, err := os.ReadFile(Path(dir)); err != nil || string(text) != format1 {
		t.Errorf("reading it changes the file (%v)", err)
	}
	store := source.NewStore(func() build.Env { return build.Env{Now: noon.Time} }, ids("i-a"), o)
	if _, err := store.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := o.Adopt(store); err != nil || store.Snapshot().Options().HopLimit != 3 {
		t.Errorf("adopted: %v, hop limit %d", err, store.Snapshot().Options().HopLimit)
	}
	for when, o := range map[string]*Overlay{"running": o, "opened again": open(t, dir)} {
		f := loadFor(t, o, "i-a")
		if o.Unowned() || texts(f.Options)[hopOption] != "3" || !slices.Equal(f.Removed, []string{ec2.TagPath("Old")}) {
			t.Errorf("%s: unowned %v, %+v", when, o.Unowned(), f)
		}
		if e := o.Entries("i-a", Options)[hopOption]; e.By != "uid 0" || !e.Time.Equal(noon.Time) {
			t.Errorf("%s: it was made by %q at %v", when, e.By, e.Time)
		}
		if f := loadFor(t, o, "i-b"); len(f.Options)+len(f.Removed) > 0 || !slices.Equal(o.Others("i-b"), []string{"i-a"}) {
			t.Errorf("%s: another instance has %+v, and the others are %q", when, f, o.Others("i-b"))
		}
	}
}

// A version that knows format 1 alone must not take the file for its own, and overwrite it.
func TestAnEarlierVersionRefusesTheFile(t *testing.T) {
	dir := t.TempDir()
	setFor(t, open(t, dir), "i-a", "2")
	text, err := os.ReadFile(Path(dir))
	if err != nil || !strings.HasPrefix(string(text), "{\n  \"format\": 2,") || strings.Contains(string(text), `"options": {},`) {
		t.Errorf("%s (%v)", text, err)
	}
	var f file1
	if err := decode(text, &f); err == nil {
		t.Error("format 1 reads it")
	}
}
