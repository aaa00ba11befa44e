package main

import (
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// A shown is what one door shows at one path.
type shown struct {
	dir   bool
	body  string    // of a file
	size  int64     // of a file: st_size, Content-Length
	mtime time.Time // cut to seconds
}

// walk reads the whole mount.
func walk(t *testing.T, root string) map[string]shown {
	t.Helper()
	places := map[string]shown{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		p := shown{dir: d.IsDir(), mtime: info.ModTime().UTC().Truncate(time.Second)}
		if !p.dir {
			p.body, p.size = kit.ReadFile(t, path), info.Size()
		}
		places[strings.TrimPrefix(path, root)] = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return places
}

// crawl follows every listing over HTTP, as cloud-init does.
func crawl(t *testing.T, d *served) map[string]shown {
	t.Helper()
	token := d.token()
	places := map[string]shown{}
	var visit func(path string, depth int, dir bool)
	visit = func(path string, depth int, dir bool) {
		var escaped strings.Builder
		for name := range strings.SplitSeq(strings.TrimPrefix(path, "/"), "/") {
			escaped.WriteString("/" + url.PathEscape(name))
		}
		r := d.ask("GET", escaped.String(), "X-aws-ec2-metadata-token", token)
		if strings.HasSuffix(path, "/user-data") && r.status == http.StatusNotFound {
			return // always listed
		}
		modified, err := http.ParseTime(r.header.Get("Last-Modified"))
		if r.status != http.StatusOK || err != nil {
			t.Fatalf("%s is listed, but: %d, Last-Modified %q", path, r.status, r.header.Get("Last-Modified"))
		}
		p := shown{dir: dir, mtime: modified.UTC()}
		if !dir {
			p.body = r.body
			fmt.Sscan(r.header.Get("Content-Length"), &p.size)
		}
		places[path] = p
		if !dir || r.body == "" {
			return
		}
		for line := range strings.SplitSeq(r.body, "\n") {
			name, isDir := strings.CutSuffix(line, "/")
			if strings.HasSuffix(path, "/public-keys") {
				name, _, isDir = strings.Cut(name, "=")
			}
			if depth < 2 {
				isDir = name != "user-data"
			}
			visit(path+"/"+name, depth+1, isDir)
		}
	}
	visit("", 0, true)
	return places
}

func TestTwoDoorsAgree(t *testing.T) {
	for name, file := range instanceFiles(t) {
		t.Run(name, func(t *testing.T) {
			d := serve(t, file, true)
			files, http := walk(t, d.mount), crawl(t, d)
			if len(http) < 500 {
				t.Errorf("only %d places seen", len(http))
			}
			for _, path := range slices.Sorted(maps.Keys(files)) {
				f, ok := files[path], true
				h, ok := http[path]
				switch {
				case !ok:
					t.Errorf("%s is on the mount alone", path)
				case f != h:
					t.Errorf("%s:\nmount %+v\nHTTP  %+v", path, f, h)
				case !f.dir && f.size != int64(len(f.body)):
					t.Errorf("%s holds %d bytes and says %d", path, len(f.body), f.size)
				}
				delete(http, path)
			}
			for path := range http {
				t.Errorf("%s is on HTTP alone", path)
			}
		})
	}
}

// Categories and the version that introduced each (EC2 user guide, "Instance metadata categories").
func TestVersionGatingOnBothDoors(t *testing.T) {
	d := serve(t, instances+"/m5-two-interfaces.toml", true)
	const nic = "meta-data/network/interfaces/macs/%s/"
	macs, err := os.ReadDir(d.mount + "/latest/meta-data/network/interfaces/macs")
	if err != nil || len(macs) != 2 {
		t.Fatalf("%d interfaces, %v", len(macs), err)
	}
	mac := fmt.Sprintf(nic, macs[0].Name())
	for _, c := range []struct{ path, before, since string }{
		{"meta-data/local-hostname", "1.0", "2007-01-19"},
		{"meta-data/instance-type", "2007-03-01", "2007-08-29"},
		{"meta-data/block-device-mapping/root", "2007-10-10", "2007-12-15"},
		{"meta-data/placement/availability-zone", "2007-12-15", "2008-02-01"},
		{"meta-data/instance-action", "2008-02-01", "2008-09-01"},
		{"dynamic/instance-identity/document", "2008-09-01", "2009-04-04"},
		{"meta-data/mac", "2009-04-04", "2011-01-01"},
		{mac + "interface-id", "2009-04-04", "2011-01-01"},
		{"meta-data/services/domain", "2012-01-12", "2014-02-25"},
		{"meta-data/services/partition", "2014-11-05", "2015-10-20"},
		{mac + "ipv6s", "2016-04-19", "2016-06-30"},
		{"meta-data/events/maintenance/history", "2018-03-28", "2018-08-17"},
		{"meta-data/placement/availability-zone-id", "2018-09-24", "2019-10-01"},
		{"meta-data/placement/region", "2019-10-01", "2020-10-27"},
		{"meta-data/ipv6", "2020-10-27", "2021-01-03"},
		{"meta-data/system", "2022-07-09", "2022-09-24"},
	} {
		for version, want := range map[string]bool{c.before: false, c.since: true, "latest": true} {
			path := "/" + version + "/" + c.path
			if status := d.ask("GET", path).status; (status == http.StatusOK) != want || !want && status != http.StatusNotFound {
				t.Errorf("GET %s: %d, want it there: %v", path, status, want)
			}
			if _, err := os.Stat(d.mount + path); (err == nil) != want || !want && !os.IsNotExist(err) {
				t.Errorf("stat %s: %v, want it there: %v", path, err, want)
			}
		}
	}
}

// after does something and waits until the log says what once more.
func (d *served) after(what string, do func()) {
	d.t.Helper()
	count := func() int { return strings.Count(d.log.String(), what) }
	before := count()
	do()
	kit.Eventually(d.t, what, func() bool { return count() > before })
}

// reload writes the file anew and waits until the log says what; nobody sends a signal.
func (d *served) reload(file, text, what string) {
	d.t.Helper()
	d.after(what, func() { rewrite(d.t, file, text) })
}

func TestSIGHUPIsAnswered(t *testing.T) {
	file := write(t, "web.toml", least("", ""))
	d := serve(t, file, false)
	hup := func() { d.signal(syscall.SIGHUP) }
	d.after("level=info msg=reloaded added=0 changed=0 options= removed=0", hup)
	d.reload(file, least(`platfrom = "ec2"`, ""), "still serving")
	d.after("web.toml:3: instance.platfrom: unknown key", hup) // although it was said before
	d.reload(file, least("", ""), "the input is good again")
	d.after("level=info msg=reloaded added=0 changed=0 options= removed=0", hup)
}

func TestReloadReachesBothDoors(t *testing.T) {
	file := write(t, "web.toml", least("", `tier = "gold"`))
	d := serve(t, file, true)
	const path = "/latest/meta-data/tier"
	open, err := os.Open(d.mount + path)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	expect := func(want string) {
		t.Helper()
		if got := kit.ReadFile(t, d.mount+path); got != want {
			t.Errorf("the mount says %q, want %q", got, want)
		}
		if got := d.ask("GET", path).body; got != want {
			t.Errorf("HTTP says %q, want %q", got, want)
		}
	}
	expect("gold")

	d.reload(file, least("", `tier = "silver plated"`), "msg=reloaded")
	expect("silver plated")
	buf := make([]byte, 100)
	if n, _ := open.ReadAt(buf, 0); string(buf[:n]) != "gold" {
		t.Errorf("an open descriptor turned to %q", buf[:n])
	}

	d.reload(file, least(`platfrom = "ec2"`, "tier = [[1]]"), "still serving")
	expect("silver plated")
	for _, want := range []string{"web.toml:3: instance.platfrom: unknown key", "meta-data.tier", "faults=2"} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("the log does not say %q", want)
		}
	}

	d.reload(file, least("", "colour = \"blue\""), "msg=reloaded")
	if _, err := os.Stat(d.mount + path); !os.IsNotExist(err) {
		t.Errorf("a removed value: %v", err)
	}
	if status := d.ask("GET", path).status; status != http.StatusNotFound {
		t.Errorf("a removed value: %d", status)
	}
	if got := kit.ReadFile(t, d.mount+"/latest/meta-data/colour"); got != "blue" {
		t.Errorf("a new value: %q", got)
	}
}

func TestOptionsConcernTheRightDoors(t *testing.T) {
	file := write(t, "web.toml", least("", "")+"[tags]\nName = \"web\"\n")
	d := serve(t, file, true)
	const id, tags = "/latest/meta-data/instance-id", "/latest/meta-data/tags/instance/Name"
	status := func(path string) int { t.Helper(); return d.ask("GET", path).status }
	on := func(path string) bool { _, err := os.Stat(d.mount + path); return err == nil }
	set := func(options string) {
		t.Helper()
		d.reload(file, least("", "")+"[tags]\nName = \"web\"\n[metadata-options]\n"+options, "msg=reloaded")
	}
	if status(id) != 200 || status(tags) != 404 || on(tags) {
		t.Error("by default v1 is answered and tags are hidden")
	}
	set(`instance-metadata-tags = "enabled"`)
	if status(tags) != 200 || !on(tags) {
		t.Error("enabled tags do not show on both doors")
	}
	set(`http-tokens = "required"`)
	if status(id) != 401 || !on(id) || d.ask("GET", id, "X-aws-ec2-metadata-token", d.token()).status != 200 {
		t.Error("required tokens concern HTTP, and only requests without one")
	}
	set(`http-endpoint = "disabled"`)
	if status(id) != 403 || !on(id) {
		t.Error("a disabled endpoint concerns HTTP alone")
	}
}

func TestSecretsAreForTheirOwner(t *testing.T) {
	d := serve(t, instances+"/us-east-1-role.toml", true)
	roles, err := os.ReadDir(d.mount + "/latest/meta-data/iam/security-credentials")
	if err != nil || len(roles) != 1 {
		t.Fatalf("%v, %v", roles, err)
	}
	for path, mode := range map[string]os.FileMode{
		"/latest/meta-data/iam/security-credentials/" + roles[0].Name(): 0o400,
		"/latest/user-data":             0o400,
		"/latest/meta-data/iam/info":    0o444,
		"/latest/meta-data/instance-id": 0o444,
	} {
		info, err := os.Stat(d.mount + path)
		if err != nil || info.Mode() != mode {
			t.Errorf("%s: %v, %v; want %v", path, info, err, mode)
		}
		cmd := nobody("cat", d.mount+path)
		if err := cmd.Run(); (err == nil) != (mode == 0o444) {
			t.Errorf("nobody reads %s: %v", path, err)
		}
	}
}
