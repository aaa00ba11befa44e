package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/overlay"
	"github.com/imdsfs/imdsfs/source/tree"
)

const (
	first  = "i-0a1b2c3d4e5f67890"
	second = "i-00000000000000042"
)

// become changes the instance id in the file.
func (i *instance) become(id string) {
	i.t.Helper()
	i.file.fragment.Leaves["meta-data/instance-id"] = stated(id)
	if _, err := i.Reload(i.t.Context()); err != nil {
		i.t.Fatal(err)
	}
}

// must fails the test if any of the steps failed.
func (i *instance) must(errs ...error) {
	i.t.Helper()
	for _, err := range errs {
		if err != nil {
			i.t.Fatal(err)
		}
	}
}

// names are changes as "options http-tokens".
func names(changes []Changed) []string {
	list := []string{}
	for _, c := range changes {
		list = append(list, string(c.Kind)+" "+c.Name)
	}
	return list
}

func (i *instance) wantChanges(when string, want []string, others ...Others) {
	i.t.Helper()
	for _, list := range []Changes{i.changes(), {Changes: i.status().Changes, Others: i.status().Others}} {
		if got := names(list.Changes); !slices.Equal(got, want) || !slices.Equal(list.Others, others) {
			i.t.Errorf("%s: %q and %v, want %q and %v", when, got, list.Others, want, others)
		}
	}
}

func TestChangesBelongToTheirInstance(t *testing.T) {
	i := newInstance(t, func(f *build.Fragment) { f.Options = values(tags, "enabled") })
	i.must(i.setOptions(map[string]string{tokens: "required"}, "uid 0"),
		i.changeTag(Set, "Name", []byte("web-1"), "uid 0"), i.changeValue(Set, "meta-data/ami-id", []byte("ami-1"), "uid 0"))
	mine := []string{"options " + tokens, "tags Name", "values meta-data/ami-id"}
	i.wantChanges("at first", mine)

	i.become(second)
	if i.value(tokens) != "optional" || i.text("meta-data/ami-id") != "-" || i.text("meta-data/tags/instance/Name") != "-" {
		t.Errorf("in force for another instance: tokens %s, ami-id %s", i.value(tokens), i.text("meta-data/ami-id"))
	}
	i.wantChanges("another instance", []string{}, Others{first, 3})
	i.must(i.changeTag(Set, "Name", []byte("web-2"), "uid 0"))
	i.start()
	i.wantChanges("another instance, after a restart", []string{"tags Name"}, Others{first, 3})

	i.become(first)
	if i.value(tokens) != "required" || i.text("meta-data/ami-id") != "ami-1" || i.text("meta-data/tags/instance/Name") != "web-1" {
		t.Errorf("not in force again: tokens %s, ami-id %s", i.value(tokens), i.text("meta-data/ami-id"))
	}
	i.wantChanges("the first instance again", mine, Others{second, 1})
}

// An id that is set at run time is a change of the same instance.
func TestAnIDThatIsSetAtRunTimeDoesNotCountItself(t *testing.T) {
	i := newInstance(t, nil)
	i.must(i.changeValue(Set, "meta-data/instance-id", []byte(second), "uid 0"), i.changeTag(Set, "Name", []byte("a"), "uid 0"))
	for range 2 {
		if got := i.Store.Snapshot().InstanceID(); got != second {
			t.Errorf("the id is %s", got)
		}
		i.wantChanges("with another id", []string{"tags Name", "values meta-data/instance-id"})
		i.start()
	}
}

// Options that were set for another instance have no effect, including the lock: whoever gives a daemon the file of another
// instance may weaken its options there. With its own instance a change that tightened a locked option applies again.
func TestALockedOptionFollowsItsInstance(t *testing.T) {
	i := newInstance(t, func(f *build.Fragment) { f.Lock = []string{tokens} })
	i.must(i.setOptions(map[string]string{tokens: "required"}, "uid 0"))
	i.become(second)
	if i.value(tokens) != "optional" {
		t.Errorf("another instance: tokens %s", i.value(tokens))
	}
	i.become(first)
	if got := code(t, i.setOptions(map[string]string{tokens: "optional"}, "uid 0")); got != codeUnauthorized || i.value(tokens) != "required" {
		t.Errorf("the first again: %q, tokens %s", got, i.value(tokens))
	}
}

func TestResetForgets(t *testing.T) {
	all := []string{"options " + tokens, "tags Name", "values meta-data/ami-id"}
	other := second
	own := first
	for name, c := range map[string]struct {
		lock      []string
		kinds     []overlay.Kind
		instance  *string
		forgotten []string
		left      []string
		others    []Others
		code      string
		says      string
	}{
		"all":                      {forgotten: all, left: []string{}, others: []Others{{second, 2}}},
		"a kind":                   {kinds: []overlay.Kind{overlay.Tags}, forgotten: all[1:2], left: []string{all[0], all[2]}, others: []Others{{second, 2}}},
		"two kinds":                {kinds: []overlay.Kind{overlay.Values, overlay.Options}, forgotten: []string{all[2], all[0]}, left: all[1:2], others: []Others{{second, 2}}},
		"the running one, by id":   {instance: &own, forgotten: all, left: []string{}, others: []Others{{second, 2}}},
		"another instance":         {instance: &other, forgotten: []string{"options " + tokens, "tags Name"}, left: all},
		"another, a kind":          {instance: &other, kinds: []overlay.Kind{overlay.Tags}, forgotten: all[1:2], left: all, others: []Others{{second, 1}}},
		"another, a lock":          {instance: &other, lock: []string{tokens}, forgotten: []string{"options " + tokens, "tags Name"}, left: all},
		"an unknown instance":      {instance: new(string), left: all, others: []Others{{second, 2}}, code: codeInvalidValue, says: "for instance ''; there are some for '" + second + "'"},
		"an unknown kind":          {kinds: []overlay.Kind{overlay.Tags, "tag"}, left: all, others: []Others{{second, 2}}, code: codeInvalidValue, says: "'tag' is no kind"},
		"a locked option":          {lock: []string{tokens}, left: all, others: []Others{{second, 2}}, code: codeUnauthorized, says: "HttpTokens is locked at 'required'"},
		"beside a locked option":   {lock: []string{tokens}, kinds: []overlay.Kind{overlay.Tags, overlay.Values}, forgotten: all[1:], left: all[:1], others: []Others{{second, 2}}},
		"a lock that holds others": {lock: []string{hops}, forgotten: all, left: []string{}, others: []Others{{second, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			i := newInstance(t, func(f *build.Fragment) { f.Lock = c.lock })
			i.must(i.setOptions(map[string]string{tokens: "required"}, "uid 0"),
				i.changeTag(Set, "Name", []byte("web-1"), "uid 0"), i.changeValue(Set, "meta-data/ami-id", []byte(planted), "uid 0"))
			i.become(second)
			i.must(i.setOptions(map[string]string{tokens: "required"}, "uid 0"), i.changeTag(Set, "Name", []byte("web-2"), "uid 0"))
			i.become(first)
			forgotten, err := i.reset(c.kinds, c.instance, "uid 0")
			if got := code(t, err); got != c.code || c.code != "" && !strings.Contains(err.Error(), c.says) {
				t.Fatalf("got %v, want %q %q", err, c.code, c.says)
			}
			if got := names(forgotten); !slices.Equal(got, c.forgotten) && len(got)+len(c.forgotten) > 0 {
				t.Errorf("forgotten %q, want %q", got, c.forgotten)
			}
			for _, when := range []string{"at once", "after a restart"} {
				i.wantChanges(when, c.left, c.others...)
				if required, want := i.value(tokens) == "required", slices.Contains(c.left, all[0]); required != want {
					t.Errorf("%s: tokens %s", when, i.value(tokens))
				}
				i.start()
			}
		})
	}
}

func TestAReloadNamesWhatChanged(t *testing.T) {
	var many []string
	for n := range 30 {
		many = append(many, fmt.Sprintf("meta-data/x%02d", n))
	}
	for name, c := range map[string]struct {
		change build.Change
		want   []string
	}{
		"nothing": {},
		"each": {build.Change{Change: tree.Change{Added: []string{"meta-data/a"}, Removed: []string{"meta-data/b"}, Changed: []string{"user-data"}, Dirs: []string{"meta-data"}}},
			[]string{"meta-data/a added", "meta-data/b removed", "user-data changed"}},
		"a directory": {build.Change{Change: tree.Change{Added: []string{"meta-data/a", "meta-data/a/b", "meta-data/a/b/c", "meta-data/a-b", "meta-data/ab"}}},
			[]string{"meta-data/a added", "meta-data/a-b added", "meta-data/ab added"}},
		"20":     {build.Change{Change: tree.Change{Changed: many[:20]}}, texts(many[:20], "changed")},
		"21":     {build.Change{Change: tree.Change{Changed: many[:21]}}, append(texts(many[:20], "changed"), "and 1 more")},
		"30 + 1": {build.Change{Change: tree.Change{Added: many, Changed: []string{"user-data"}}}, append(texts(many[:20], "added"), "and 11 more")},
	} {
		r := ReloadedBy(c.change)
		if got := r.Texts(); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		if r.Added == nil || r.Removed == nil || r.Changed == nil || r.Options == nil {
			t.Errorf("%s: null in JSON: %+v", name, r)
		}
	}
}

func texts(paths []string, what string) []string {
	list := []string{}
	for _, p := range paths {
		list = append(list, p+" "+what)
	}
	return list
}
