package build

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/source/tree"
)

func mustFind(t *testing.T, s *Snapshot, path string) tree.View {
	t.Helper()
	v, ok := s.Find(path)
	if !ok {
		t.Fatalf("no %s", path)
	}
	return v
}

func later(d time.Duration) Env {
	env := testEnv
	env.Now = env.Now.Add(d)
	return env
}

func TestUnchangedSubtreesAreShared(t *testing.T) {
	old := build(t, nil, testEnv, least())
	next := build(t, old, later(time.Minute), with(least(), "meta-data/tier", "gold"))
	for _, path := range []string{"/latest/dynamic", "/latest/meta-data/network", "/latest/meta-data/instance-id"} {
		if !mustFind(t, old, path).Same(mustFind(t, next, path)) {
			t.Errorf("%s was built anew", path)
		}
	}
	same := build(t, next, later(time.Hour), with(least(), "meta-data/tier", "gold"))
	if !sameRoot(same, next) {
		t.Error("nothing changed, but the tree is another")
	}
}

func TestChangeSets(t *testing.T) {
	const meta = "meta-data"
	for name, c := range map[string]struct {
		before, after                 []string
		added, removed, changed, dirs string
	}{
		"nothing":          {nil, nil, "", "", "", ""},
		"a value":          {[]string{"meta-data/tier", "gold"}, []string{"meta-data/tier", "silver"}, "", "", "meta-data/tier", meta},
		"a new leaf":       {nil, []string{"meta-data/tier", "gold"}, "meta-data/tier", "", "", meta},
		"a removed leaf":   {[]string{"meta-data/tier", "gold"}, nil, "", "meta-data/tier", "", meta},
		"a new directory":  {nil, []string{"meta-data/a/b/c", "x"}, "meta-data/a meta-data/a/b meta-data/a/b/c", "", "", "meta-data meta-data/a meta-data/a/b"},
		"a leaf turns dir": {[]string{"meta-data/a", "x"}, []string{"meta-data/a/b", "x"}, "meta-data/a meta-data/a/b", "meta-data/a", "", "meta-data meta-data/a"},
		"user-data":        {nil, []string{"user-data", "x"}, "user-data", "", "", "."},
		"a deep value":     {[]string{"meta-data/a/b", "x"}, []string{"meta-data/a/b", "y"}, "", "", "meta-data/a/b", "meta-data/a"},
		"a directory that earlier versions see now": {[]string{"meta-data/spot/instance-action", "{}"}, []string{"meta-data/spot/instance-action", "{}", "meta-data/spot/termination-time", "x"},
			"meta-data/spot/termination-time", "", "meta-data/spot", "meta-data meta-data/spot"},
		"what follows from it": {[]string{"instance.account-id", "111111111111"}, []string{"instance.account-id", "222222222222"}, "", "",
			"dynamic/instance-identity/document meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f/owner-id",
			"dynamic/instance-identity meta-data/network/interfaces/macs/06:2b:3c:4d:5e:6f"},
	} {
		t.Run(name, func(t *testing.T) {
			old := build(t, nil, testEnv, with(least(), c.before...))
			next := build(t, old, later(time.Minute), with(least(), c.after...))
			d := Diff(old, next)
			for what, x := range map[string]struct {
				got  []string
				want string
			}{"added": {d.Added, c.added}, "removed": {d.Removed, c.removed}, "changed": {d.Changed, c.changed}, "dirs": {d.Dirs, c.dirs}} {
				slices.Sort(x.got)
				if got := strings.Join(x.got, " "); got != strings.ReplaceAll(x.want, ".", "") {
					t.Errorf("%s = %q, want %q", what, got, x.want)
				}
			}
			if d.Empty() != (name == "nothing") {
				t.Errorf("Empty() = %v", d.Empty())
			}
		})
	}
}

func TestOnlyTheProvenanceChanging_IsNoChange(t *testing.T) {
	old := build(t, nil, testEnv, least())
	moved := least()
	v := moved.Leaves["meta-data/instance-id"]
	v.Origin.Place, v.Mtime = "test.toml:99", fileTime.Add(time.Hour)
	moved.Leaves["meta-data/instance-id"] = v
	next := build(t, old, later(time.Minute), moved)
	if d := Diff(old, next); !d.Empty() {
		t.Errorf("%+v", d)
	}
	id := mustFind(t, next, "/latest/meta-data/instance-id")
	if id.Origin().Place != "test.toml:99" || !id.ModTime().Equal(fileTime) {
		t.Errorf("origin %v, mtime %v: want the new place and the old time", id.Origin(), id.ModTime())
	}
}

func TestOptionsThatChange(t *testing.T) {
	old := build(t, nil, testEnv, least())
	next := build(t, old, testEnv, with(least(), "option.http-tokens", "required", "instance.imds-support", "v2.0"))
	if d := Diff(old, next); d.Empty() || !slices.Equal(d.Options, []string{ec2.OptionHopLimit, ec2.OptionHTTPTokens}) {
		t.Errorf("%+v", d)
	}
}

func TestAVersionListThatChanges(t *testing.T) {
	old := build(t, nil, testEnv, least())
	next := build(t, old, later(time.Minute), with(least(), "instance.versions", "1.0"))
	if d := Diff(old, next); !d.Versions {
		t.Error("the change set does not say so")
	}
	if !next.Root().ModTime().After(old.Root().ModTime()) {
		t.Error("the time of / stands still")
	}
}

func TestDirectoryTimesStrictlyIncrease(t *testing.T) {
	const dir = "/latest/meta-data"
	snap := build(t, nil, testEnv, least())
	if got := mustFind(t, snap, dir).ModTime(); !got.Equal(fileTime) {
		t.Errorf("at first: %v, want that of the newest value, %v", got, fileTime)
	}
	last := mustFind(t, snap, dir).ModTime()
	for i := range 20 { // the clock stands still, then goes back
		env := later(time.Minute)
		if i > 10 {
			env = later(-time.Hour)
		}
		snap = build(t, snap, env, with(least(), "meta-data/tier", fmt.Sprint(i)))
		now := mustFind(t, snap, dir).ModTime()
		if !now.After(last) {
			t.Fatalf("change %d: %v is not after %v", i, now, last)
		}
		if got := mustFind(t, snap, "/latest/meta-data/placement").ModTime(); !got.Equal(fileTime) {
			t.Errorf("a directory that did not change has a new time: %v", got)
		}
		last = now
	}
}

func TestRollingCredentials(t *testing.T) {
	f := least()
	f.Role = &Role{Name: "web", AccessKeyID: "AKID", SecretAccessKey: "SECRET", Token: "TOKEN"}
	const path = "/latest/meta-data/iam/security-credentials/web"
	first := build(t, nil, testEnv, f)
	want := `{
  "Code" : "Success",
  "LastUpdated" : "2026-03-01T12:00:00Z",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "AKID",
  "SecretAccessKey" : "SECRET",
  "Token" : "TOKEN",
  "Expiration" : "2026-03-01T18:00:00Z"
}`
	v := mustFind(t, first, path)
	if got := string(v.Bytes()); got != want {
		t.Errorf("got %s", got)
	}
	if !v.Expires().Equal(startTime.Add(6*time.Hour)) || !v.Secret() || !v.ModTime().Equal(startTime) {
		t.Errorf("expires %v, secret %v, mtime %v", v.Expires(), v.Secret(), v.ModTime())
	}
	if want := startTime.Add(5*time.Hour + 30*time.Minute); !first.Refresh().Equal(want) {
		t.Errorf("refresh at %v, want %v", first.Refresh(), want)
	}

	early := build(t, first, later(5*time.Hour), f)
	if d := Diff(first, early); !d.Empty() {
		t.Errorf("a reload before they are due changed %+v", d)
	}
	due := build(t, early, later(5*time.Hour+30*time.Minute), f)
	if got := string(mustFind(t, due, path).Bytes()); !strings.Contains(got, `"Expiration" : "2026-03-01T23:30:00Z"`) {
		t.Errorf("when due: %s", got)
	}
	f.Role = &Role{Name: "web", AccessKeyID: "OTHER", SecretAccessKey: "SECRET", Token: "TOKEN"}
	other := build(t, first, later(time.Hour), f)
	if got := string(mustFind(t, other, path).Bytes()); !strings.Contains(got, `"LastUpdated" : "2026-03-01T13:00:00Z"`) {
		t.Errorf("new credentials keep the times of the old: %s", got)
	}
}

func TestFixedCredentialsAndIdentity(t *testing.T) {
	f := least()
	end := startTime.Add(time.Hour)
	f.Role = &Role{Name: "web", Expiration: end, Mtime: fileTime, ProfileID: "AIPAX"}
	f.IdentityRole = &Role{AccessKeyID: "ID", Expiration: end, Mtime: fileTime}
	with(f, "meta-data/iam/security-credentials-extended/web", `{"Expiration" : "2026-03-01T12:30:00Z"}`)
	s := build(t, nil, testEnv, f)
	if !s.Refresh().IsZero() {
		t.Errorf("refresh at %v", s.Refresh())
	}
	if got, want := text(s, "meta-data/iam/info"), `{
  "Code" : "Success",
  "LastUpdated" : "2026-01-02T03:04:05Z",
  "InstanceProfileArn" : "arn:aws:iam::000000000000:instance-profile/web",
  "InstanceProfileId" : "AIPAX"
}`; got != want {
		t.Errorf("iam/info = %s", got)
	}
	if got := text(s, "meta-data/identity-credentials/ec2/info"); !strings.Contains(got, `"AccountId" : "000000000000"`) {
		t.Errorf("identity info = %s", got)
	}
	info := mustFind(t, s, "/latest/meta-data/identity-credentials/ec2/info")
	creds := mustFind(t, s, "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance")
	if info.Secret() || info.Attr().Mode != 0o444 || !creds.Secret() || creds.Attr().Mode != 0o400 || !creds.Expires().Equal(end) {
		t.Errorf("info %+v, credentials %+v until %v", info.Attr(), creds.Attr(), creds.Expires())
	}
	if v := mustFind(t, s, "/latest/meta-data/iam/security-credentials-extended/web"); !v.Expires().Equal(startTime.Add(30 * time.Minute)) {
		t.Errorf("stated credentials end at %v", v.Expires())
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	r := Role{SecretAccessKey: "hunter2", Token: "hunter2"}
	for _, text := range []string{fmt.Sprint(r), fmt.Sprintf("%v %+v %#v %s %q %x", r, r, r, r, r.Token, r.Token)} {
		if strings.Contains(text, "hunter2") || strings.Contains(text, fmt.Sprintf("%x", "hunter2")) {
			t.Error(text)
		}
	}
}

// sameRoot reports whether two snapshots share the directory of the versions.
func sameRoot(a, b *Snapshot) bool {
	v, _ := a.View(tree.Latest)
	w, _ := b.View(tree.Latest)
	return v.Same(w)
}
