package source

import (
	"context"
	"testing"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
)

// A perInstance source states an option of one instance.
type perInstance struct {
	scripted
	of map[string]*build.Fragment
}

func (p *perInstance) LoadFor(_ context.Context, id string) (*build.Fragment, error) {
	if f, ok := p.of[id]; ok {
		return f, nil
	}
	return &build.Fragment{RunTime: true}, nil
}

func atRunTime(f build.Fragment) *build.Fragment {
	f.RunTime = true
	return &f
}

func one(id string) map[string]tree.Value { return states("meta-data/instance-id", id).Leaves }

func TestASourceOfInstancesIsToldTheIDBeforeRunTimeChanges(t *testing.T) {
	host, file := &scripted{name: "scripted", fragment: least("meta-data/instance-id", "i-00000000000000001")}, &scripted{name: "file", fragment: &build.Fragment{}}
	changes := &perInstance{of: map[string]*build.Fragment{
		// It gives the instance another id, and is none of that one.
		"i-00000000000000001": atRunTime(build.Fragment{Leaves: one("i-00000000000000002")}),
		"i-00000000000000002": atRunTime(build.Fragment{Leaves: one("i-00000000000000003")}),
	}}
	store := NewStore(environment, host, file, changes)
	if id, ok := store.StatedID(); ok || id != "" {
		t.Errorf("before the first reload the id is %q", id)
	}
	for _, step := range []struct{ file, stated, shown string }{
		{"", "i-00000000000000001", "i-00000000000000002"},
		{"i-00000000000000002", "i-00000000000000002", "i-00000000000000003"},
		{"i-00000000000000004", "i-00000000000000004", "i-00000000000000004"},
		{"", "i-00000000000000001", "i-00000000000000002"},
	} {
		file.fragment = &build.Fragment{}
		if step.file != "" {
			file.fragment.Leaves = one(step.file)
		}
		if _, err := store.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		stated, ok := store.StatedID()
		if shown := store.Snapshot().InstanceID(); !ok || stated != step.stated || shown != step.shown {
			t.Errorf("the file says %q: stated %q, shown %q", step.file, stated, shown)
		}
		var told string
		if _, err := store.Update("scripted", func(id string) (*build.Fragment, error) { told = id; return nil, context.Canceled }, nil); err != context.Canceled || told != step.stated {
			t.Errorf("a change is told %q (%v)", told, err)
		}
	}
}
