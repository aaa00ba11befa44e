package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// doors tells what each door says at a path.
func (d *served) doors(path string) [2]string {
	d.t.Helper()
	file, err := os.ReadFile(d.mount + path)
	if errors.Is(err, os.ErrNotExist) {
		file = []byte("(404)")
	} else if err != nil {
		d.t.Fatal(err)
	}
	r := d.ask("GET", path)
	if r.status != 200 {
		r.body = fmt.Sprintf("(%d)", r.status)
	}
	return [2]string{string(file), r.body}
}

// comes waits until both doors say what.
func (d *served) comes(path, what string) {
	d.t.Helper()
	var got [2]string
	for deadline := time.Now().Add(kit.Patience); ; {
		if got = d.doors(path); got == [2]string{what, what} {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("%s: the mount says %q, HTTP %q; want %q", path, got[0], got[1], what)
		}
	}
}

// must ends the test if a step of its own fails.
func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Each way to change the instance file reaches both doors, and nobody sends a signal.
func TestAChangeOfTheFileReachesBothDoors(t *testing.T) {
	tierIs := func(value string) []byte { return []byte(least("", "tier = \""+value+"\"")) }
	for name, change := range map[string]func(t *testing.T, file, value string){
		"written in place": func(t *testing.T, file, value string) { must(t, os.WriteFile(file, tierIs(value), 0o600)) },
		"written in place, slowly": func(t *testing.T, file, value string) {
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
			must(t, err)
			defer f.Close()
			for _, b := range tierIs(value) { // a system call for each byte
				_, err := f.Write([]byte{b})
				must(t, err)
			}
		},
		"replaced by rename": func(t *testing.T, file, value string) { rewrite(t, file, string(tierIs(value))) },
		"moved away and written anew": func(t *testing.T, file, value string) {
			must(t, os.Rename(file, file+"~"), os.WriteFile(file, tierIs(value), 0o600), os.Remove(file+"~"))
		},
		"removed and written anew": func(t *testing.T, file, value string) {
			must(t, os.Remove(file), os.WriteFile(file, tierIs(value), 0o600))
		},
	} {
		t.Run(name, func(t *testing.T) {
			file := write(t, "web.toml", string(tierIs("first")))
			d := serve(t, file, true)
			d.comes(tier, "first")
			for _, value := range []string{"second", "the third, which is longer", "4th"} {
				change(t, file, value)
				d.comes(tier, value)
			}
		})
	}
}

// TestKubernetesSwapsTheWholeFolder: a ConfigMap's files are links through ..data, which is what changes.
func TestKubernetesSwapsTheWholeFolder(t *testing.T) {
	dir := t.TempDir()
	volume := func(version, value string) {
		t.Helper()
		must(t, os.Mkdir(dir+"/..v"+version, 0o700),
			os.WriteFile(dir+"/..v"+version+"/web.toml", []byte("user-data-file = \"boot.sh\"\n"+least("", "tier = \""+value+"\"")), 0o600),
			os.WriteFile(dir+"/..v"+version+"/boot.sh", []byte("#!/bin/sh\necho "+value+"\n"), 0o600),
			os.Symlink("..v"+version, dir+"/..data_tmp"),
			os.Rename(dir+"/..data_tmp", dir+"/..data"))
	}
	volume("1", "first")
	must(t, os.Symlink("..data/web.toml", dir+"/web.toml"), os.Symlink("..data/boot.sh", dir+"/boot.sh"))
	d := serve(t, dir+"/web.toml", true)
	d.comes("/latest/user-data", "#!/bin/sh\necho first\n")
	for i, value := range []string{"second", "third"} {
		volume(fmt.Sprint(i+2), value)
		must(t, os.RemoveAll(fmt.Sprintf("%s/..v%d", dir, i+1)))
		d.comes(tier, value)
		d.comes("/latest/user-data", "#!/bin/sh\necho "+value+"\n")
	}
}

func TestAChangeOfWhatTheFileRefersToReachesBothDoors(t *testing.T) {
	conf, secrets := t.TempDir(), t.TempDir()
	file := conf + "/web.toml"
	text := func(secretFile string) string {
		return "user-data-file = \"boot.sh\"\n" + least("", "") + fmt.Sprintf(`
[credentials.web]
type = "static"
access-key-id = "ASIAIOSFODNN7EXAMPLE"
secret-access-key-file = %q
token = "token"
expiration = 2099-01-01T00:00:00Z
`, secretFile)
	}
	rewrite(t, conf+"/boot.sh", "one")
	rewrite(t, secrets+"/key", "hunter1\n")
	rewrite(t, file, text(secrets+"/key"))
	d := serve(t, file, true)
	d.comes("/latest/user-data", "one")
	const role = "/latest/meta-data/iam/security-credentials/web"
	secret := func(want string) {
		t.Helper()
		kit.Eventually(t, "both doors have "+want, func() bool {
			got := d.doors(role)
			return got[0] == got[1] && strings.Contains(got[0], `"`+want+`"`)
		})
	}
	secret("hunter1")

	rewrite(t, conf+"/boot.sh", "two")
	d.comes("/latest/user-data", "two")
	must(t, os.WriteFile(conf+"/boot.sh", []byte("three, in place"), 0o600))
	d.comes("/latest/user-data", "three, in place")
	rewrite(t, secrets+"/key", "hunter2\n")
	secret("hunter2")

	// Another file is referred to, and watched from then on.
	others := t.TempDir()
	rewrite(t, others+"/key", "hunter3")
	rewrite(t, file, text(others+"/key"))
	secret("hunter3")
	rewrite(t, others+"/key", "hunter4")
	secret("hunter4")

	// One that is missing is a fault, and good again when it comes.
	d.after("still serving", func() { must(t, os.Remove(others+"/key")) })
	secret("hunter4")
	d.after("the input is good again", func() { rewrite(t, others+"/key", "hunter5") })
	secret("hunter5")
	for i := 1; i <= 5; i++ {
		if strings.Contains(d.log.String(), fmt.Sprint("hunter", i)) {
			t.Errorf("the log tells secret %d", i)
		}
	}
}

func TestAFaultIsLoggedOnce(t *testing.T) {
	file := write(t, "web.toml", least("", `tier = "gold"`))
	d := serve(t, file, true, "--log-level", "debug")
	faulty := least(`platfrom = "ec2"`, "")
	d.reload(file, faulty, "still serving")
	const place = "web.toml:3: instance.platfrom: unknown key"
	told := func() int { return strings.Count(d.log.String(), place) }
	for i := range 5 {
		d.after("as faulty as before", func() {
			when := time.Unix(int64(1e9+i), 0)
			must(t, os.Chtimes(file, when, when))
		})
	}
	d.reload(file, faulty, "as faulty as before")
	if n := told(); n != 1 {
		t.Errorf("told %d times of a fault that stayed", n)
	}
	d.reload(file, least(`platform = "ec3"`, ""), "still serving") // another one
	d.reload(file, faulty, "still serving")
	if n := told(); n != 2 {
		t.Errorf("told %d times of a fault that came twice", n)
	}
	d.comes(tier, "gold")
	d.reload(file, least("", `tier = "silver"`), "level=info msg=\"the input is good again\"")
	d.comes(tier, "silver")
	if n := strings.Count(d.log.String(), "good again"); n != 1 {
		t.Errorf("told %d times that it is good", n)
	}
}

func TestAThousandChangesEndWithTheLast(t *testing.T) {
	file := write(t, "web.toml", least("", `tier = "0"`))
	d := serve(t, file, true)
	for i := 1; i <= 1000; i++ {
		text := least("", fmt.Sprintf("tier = \"%d\"\nname-%d = \"x\"", i, i))
		if i%2 == 0 {
			rewrite(t, file, text)
		} else {
			must(t, os.WriteFile(file, []byte(text), 0o600))
		}
	}
	d.comes(tier, "1000")
	d.comes("/latest/meta-data/name-1000", "x")
	d.comes("/latest/meta-data/name-999", "(404)")
	names, err := filepath.Glob(d.mount + "/latest/meta-data/name-*")
	if err != nil || len(names) != 1 {
		t.Errorf("names left: %v, %v", names, err)
	}
}
