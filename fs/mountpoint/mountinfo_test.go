package mountpoint

import "testing"

func TestMountinfo(t *testing.T) {
	for _, c := range []struct {
		line string
		want Mount
	}{
		{"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue", Mount{"36", "35", "98:0", "/mnt1", "/mnt2", "ext3", "/dev/root"}},
		{"61 25 0:52 / /run/metadata ro,nosuid,nodev,noexec - fuse.imdsfs imdsfs rw,user_id=0", Mount{"61", "25", "0:52", "/", "/run/metadata", "fuse.imdsfs", "imdsfs"}},
		{`61 25 0:52 / /a\040b\134c\012 ro shared:1 master:2 - tmpfs none rw`, Mount{"61", "25", "0:52", "/", "/a b\\c\n", "tmpfs", "none"}},
		{`62 25 0:52 /latest/a\040b//deleted /creds ro - fuse.imdsfs imdsfs rw`, Mount{"62", "25", "0:52", "/latest/a b//deleted", "/creds", "fuse.imdsfs", "imdsfs"}},
		{`61 25 0:52 / /a\9\04 ro - tmpfs  rw`, Mount{"61", "25", "0:52", "/", `/a\9\04`, "tmpfs", ""}},
	} {
		got, err := parseMountinfo(c.line)
		if err != nil || got != c.want {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
	}
	for _, line := range []string{"", " - ", "36 35 98:0 /mnt1 - ext3 /dev/root", "36 35 98:0 / /mnt rw ext3 /dev/root rw"} {
		if got, err := parseMountinfo(line); err == nil {
			t.Errorf("%q taken as %+v", line, got)
		}
	}
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue")
	f.Add(`61 25 0:52 / /a\040b\134c\012 ro shared:1 - tmpfs none rw`)
	f.Fuzz(func(t *testing.T, line string) {
		m, err := parseMountinfo(line)
		if err == nil && len(m.Root)+len(m.Point)+len(m.Type)+len(m.Source) > len(line) {
			t.Errorf("%q grew to %+v", line, m)
		}
	})
}

func TestHiddenMountsDoNotCount(t *testing.T) {
	mount := func(id, parent, point string) Mount { return Mount{ID: id, Parent: parent, Point: point} }
	base := []Mount{mount("20", "1", "/"), mount("21", "20", "/run"), mount("22", "21", "/run/metadata")}
	for name, c := range map[string]struct {
		more []Mount
		dir  string
		want string // id, "" for none
	}{
		"plain":                       {nil, "/run/metadata", "22"},
		"nothing there":               {nil, "/run/meta", ""},
		"the root":                    {nil, "/", "20"},
		"stacked":                     {[]Mount{mount("23", "22", "/run/metadata")}, "/run/metadata", "23"},
		"hidden by a mount above":     {[]Mount{mount("23", "21", "/run")}, "/run/metadata", ""},
		"another in what hides it":    {[]Mount{mount("23", "21", "/run"), mount("24", "23", "/run/metadata")}, "/run/metadata", "24"},
		"a mount on the root hides":   {[]Mount{mount("23", "20", "/")}, "/run/metadata", ""},
		"a bind mount of it":          {[]Mount{mount("23", "20", "/srv/md")}, "/srv/md", "23"},
		"a namespace root of its own": {[]Mount{mount("30", "30", "/")}, "/", "30"},
	} {
		got, ok := visible(append(base[:len(base):len(base)], c.more...), c.dir)
		if got := got.ID; ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s: %s has %q (%v), want %q", name, c.dir, got, ok, c.want)
		}
	}
	if got, ok := visible([]Mount{mount("5", "4", "/run/metadata")}, "/run/metadata"); !ok || got.ID != "5" {
		t.Errorf("in a chroot that is no mount: %v, %v", got, ok)
	}
}
