package source

import (
	"context"
	"testing"
)

// A perInstance source states an option of one instance.
type perInstance struct {
	scripted
	of map[string]*Fragment
}

func (p *perInstance) LoadFor(_ context.Context, id string) (*Fragment, error) {
	if f, ok := p.of[id]; ok {
		return f, nil
	}
	return &Fragment{RunTime: true}, nil
}

func atRunTime(f Fragment) *Fragment {
	f.RunTime = true
	return &f
}

func one(id string) map[string]Value { return map[string]Value{"meta-data/instance-id": stated(id)} }

func TestASourceOfInstancesIsToldTheIDBeforeRunTimeChanges(t *testing.T) {
	host, file := &scripted{fragment: with(least(), "meta-data/instance-id", "i-00000000000000001")}, &scripted{fragment: &Fragment{}}
	changes := &perInstance{of: map[string]*Fragment{
		// It gives the instance another id, and is none of that one.
		"i-00000000000000001": atRunTime(Fragment{Leaves: one("i-00000000000000002")}),
		"i-00000000000000002": atRunTime(Fragment{Leaves: one("i-00000000000000003")}),
	}}
	store := NewStore(func() Env { return testEnv }, host, file, changes)
	if id, ok := store.StatedID(); ok || id != "" {
		t.Errorf("before the first reload the id is %q", id)
	}
	for _, step := range []struct{ file, stated, shown string }{
		{"", "i-00000000000000001", "i-00000000000000002"},
		{"i-00000000000000002", "i-00000000000000002", "i-00000000000000003"},
		{"i-00000000000000004", "i-00000000000000004", "i-00000000000000004"},
		{"", "i-00000000000000001", "i-00000000000000002"},
	} {
		file.fragment = &Fragment{}
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
		if _, err := store.Update("scripted", func(id string) (*Fragment, error) { told = id; return nil, context.Canceled }, nil); err != context.Canceled || told != step.stated {
			t.Errorf("a change is told %q (%v)", told, err)
		}
	}
}
