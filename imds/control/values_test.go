package control

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/overlay"
)

// planted stands for a secret key.
const planted = "wJalrXUtnFEMI-planted-secret"

func TestTagsAndValuesChangeAndComeBack(t *testing.T) {
	i := newInstance(t, func(f *build.Fragment) {
		f.Options, f.Tags = values(tags, "enabled"), values("Name", "web-1")
		f.Leaves["meta-data/ami-id"] = stated("ami-1")
		f.Leaves["meta-data/spot/instance-action"] = stated("{}")
	})
	const tag = "meta-data/tags/instance/Name"
	for n, step := range []struct {
		change func() error
		path   string
		want   string
	}{
		{func() error { return i.changeTag(Set, "Name", []byte("web-2"), "uid 0") }, tag, "web-2"},
		{func() error { return i.changeTag(Set, "Name", nil, "uid 0") }, tag, ""},
		{func() error { return i.changeTag(Unset, "Name", nil, "uid 0") }, tag, "-"},
		{func() error { return i.changeTag(Forget, "Name", nil, "uid 0") }, tag, "web-1"},
		{func() error { return i.changeValue(Set, "meta-data/ami-id", []byte("ami-2\n"), "uid 0") }, "meta-data/ami-id", "ami-2\n"},
		{func() error { return i.changeValue(Unset, "meta-data/ami-id", nil, "uid 0") }, "meta-data/ami-id", "-"},
		{func() error { return i.changeValue(Forget, "meta-data/ami-id", nil, "uid 0") }, "meta-data/ami-id", "ami-1"},
		{func() error { return i.changeValue(Unset, "meta-data/spot", nil, "uid 0") }, "meta-data/spot/instance-action", "-"},
		{func() error { return i.changeValue(Set, "user-data", []byte("#!/bin/sh\n"), "uid 0") }, "user-data", "#!/bin/sh\n"},
		{func() error { return i.changeValue(Set, "dynamic/fws/instance-monitoring", []byte("x"), "uid 0") }, "dynamic/fws/instance-monitoring", "x"},
	} {
		if err := step.change(); err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		for _, when := range []string{"at once", "after a restart"} {
			if got := i.text(step.path); got != step.want {
				t.Errorf("step %d, %s: %s is %q, want %q", n, when, step.path, got, step.want)
			}
			i.start()
		}
	}
}

func TestChangesAreCheckedLikeAFile(t *testing.T) {
	for name, c := range map[string]struct {
		change  func(i *instance) error
		message string
	}{
		"an illegal tag key while tags show": {func(i *instance) error { return i.changeTag(Set, "Patch Group", []byte(planted), "uid 0") }, "'Patch Group' is not a valid tag key"},
		"an empty tag key":                   {func(i *instance) error { return i.changeTag(Set, "", []byte(planted), "uid 0") }, "1 to 255 characters"},
		"a long tag key":                     {func(i *instance) error { return i.changeTag(Set, strings.Repeat("k", 256), []byte(planted), "uid 0") }, "1 to 255 characters"},
		"outside the tree":                   {func(i *instance) error { return i.changeValue(Set, "etc/passwd", []byte(planted), "uid 0") }, "is no path below meta-data"},
		"an absolute path":                   {func(i *instance) error { return i.changeValue(Set, "/meta-data/mac", []byte(planted), "uid 0") }, "is no path below meta-data"},
		"a directory itself":                 {func(i *instance) error { return i.changeValue(Set, "meta-data", []byte(planted), "uid 0") }, "is no path below meta-data"},
		"an empty path":                      {func(i *instance) error { return i.changeValue(Unset, "", nil, "uid 0") }, "is no path below meta-data"},
		"dots":                               {func(i *instance) error { return i.changeValue(Set, "meta-data/../x", []byte(planted), "uid 0") }, "means a directory"},
		"an empty name":                      {func(i *instance) error { return i.changeValue(Set, "meta-data//x", []byte(planted), "uid 0") }, "is empty"},
		"a long path": {func(i *instance) error {
			return i.changeValue(Unset, "meta-data/"+strings.Repeat("x", 5000), nil, "uid 0")
		}, "longer than 4096"},
		"a value below a value": {func(i *instance) error {
			return i.changeValue(Set, "meta-data/instance-id/x", []byte(planted), "uid 0")
		}, "cannot also be a directory"},
		"a tag by its path": {func(i *instance) error {
			return i.changeValue(Set, "meta-data/tags/instance/Name", []byte(planted), "uid 0")
		}, "imdsfs tag set 'Name'"},
		"too much user-data": {func(i *instance) error {
			return i.changeValue(Set, "user-data", []byte(strings.Repeat(planted, 1000)), "uid 0")
		}, "more than EC2's limit"},
		"too long a value": {func(i *instance) error {
			return i.changeValue(Set, "meta-data/iam/security-credentials/role", make([]byte, build.MaxLeaf+1), "uid 0")
		}, "more than the limit"},
		"an unknown action": {func(i *instance) error { return i.changeTag("drop", "Name", []byte(planted), "uid 0") }, "'drop' is no action"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newInstance(t, func(f *build.Fragment) { f.Options = values(tags, "enabled") })
			before := i.Store.Snapshot()
			err := c.change(i)
			if got := code(t, err); got != codeInvalidValue || !strings.Contains(err.Error(), c.message) {
				t.Errorf("got %v, want %s: …%s", err, codeInvalidValue, c.message)
			}
			if strings.Contains(err.Error(), planted) {
				t.Errorf("the error holds the value: %v", err)
			}
			if i.Store.Snapshot() != before || len(i.changes().Changes) > 0 {
				t.Error("something has changed all the same")
			}
			i.start()
		})
	}
}

func TestTheListOfChangesHoldsNoValue(t *testing.T) {
	i := newInstance(t, nil)
	for _, err := range []error{
		i.changeValue(Set, "meta-data/iam/security-credentials/role", []byte(planted), "uid 0"),
		i.changeTag(Unset, "Name", nil, "uid 1000"),
		i.setOptions(map[string]string{tokens: "required"}, "uid 0"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := []Changed{
		{overlay.Options, tokens, false, len("required"), noon, "uid 0"},
		{overlay.Tags, "Name", true, 0, noon, "uid 1000"},
		{overlay.Values, "meta-data/iam/security-credentials/role", false, len(planted), noon, "uid 0"},
	}
	if got := i.changes().Changes; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

// A change gives the same warnings as a check of a file, once.
func TestChangesWarnLikeAFile(t *testing.T) {
	i := newInstance(t, nil)
	for _, step := range []struct{ path, value, want string }{
		{"meta-data/colour", planted, "set at run time, 2026-01-01T00:00:00Z, by uid 0: meta-data/colour: EC2 has no path /latest/meta-data/colour (it is served all the same)"},
		{"meta-data/ami-id", "ami-0abcdef1234567890", ""},
		{"meta-data/instance-type", "m5large", `"m5large" is not an instance type`},
		{"meta-data/iam/security-credentials/role", planted, "this is not EC2's document"},
	} {
		warnings, err := i.Control.changeValue(Set, step.path, []byte(step.value), "uid 0")
		got := warnings.Error()
		if err != nil || step.want == "" && got != "" || strings.Contains(got, "\n") || !strings.Contains(stamp.ReplaceAllString(got, "2026-01-01T00:00:00Z"), step.want) {
			t.Errorf("%s: %v, %q; want %q", step.path, err, got, step.want)
		}
		if strings.Contains(got, planted) {
			t.Errorf("%s: the value is shown: %s", step.path, got)
		}
	}
}

var stamp = regexp.MustCompile(`[0-9-]{10}T[0-9:]{8}Z`)
