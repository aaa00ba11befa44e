package packaging

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// debContents are the modes and names of all files except the man pages of subcommands, without directories that belong
// to other packages.
const debContents = `
drwxr-xr-x /etc/imdsfs
-rw-r--r-- /etc/imdsfs/imdsfs.toml
-rwx--x--x /usr/bin/imdsfs
-rw-r--r-- /usr/lib/systemd/system/imdsfs.service
-rw-r--r-- /usr/lib/systemd/system/imdsfs.socket
-rw-r--r-- /usr/lib/systemd/system/imdsfs@.service
-rw-r--r-- /usr/lib/sysusers.d/imdsfs.conf
Lrwxrwxrwx /usr/sbin/mount.fuse.imdsfs -> ../bin/imdsfs
-rw-r--r-- /usr/share/bash-completion/completions/imdsfs
drwxr-xr-x /usr/share/doc/imdsfs
-rw-r--r-- /usr/share/doc/imdsfs/README.md
-rw-r--r-- /usr/share/doc/imdsfs/SECURITY.md
-rw-r--r-- /usr/share/doc/imdsfs/copyright
drwxr-xr-x /usr/share/doc/imdsfs/examples
-rw-r--r-- /usr/share/doc/imdsfs/examples/cn-north-1.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/ipv6-only.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/m5-two-interfaces.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/minimal.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/p5-network-cards.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/snowball.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/us-east-1-role.toml
-rw-r--r-- /usr/share/doc/imdsfs/examples/web-1.toml
-rw-r--r-- /usr/share/doc/imdsfs/grafana-dashboard.json
-rw-r--r-- /usr/share/doc/imdsfs/imdsd.conf
-rw-r--r-- /usr/share/doc/imdsfs/openapi.yaml
-rw-r--r-- /usr/share/doc/imdsfs/prometheus-rules.yml
-rw-r--r-- /usr/share/doc/imdsfs/third-party-licenses
-rw-r--r-- /usr/share/fish/vendor_completions.d/imdsfs.fish
-rw-r--r-- /usr/share/man/man1/imdsfs.1.gz
-rw-r--r-- /usr/share/man/man5/imdsfs.toml.5.gz
-rw-r--r-- /usr/share/man/man8/mount.fuse.imdsfs.8.gz
-rw-r--r-- /usr/share/zsh/vendor-completions/_imdsfs
`

var (
	subcommandPage = regexp.MustCompile(`^/usr/share/man/man1/imdsfs-(.*)\.1\.gz$`)
	ours           = regexp.MustCompile(`imdsfs`)
)

func TestDebHoldsWhatIsListed(t *testing.T) {
	t.Parallel()
	kit.RequireCommand(t, "dpkg-deb")
	for _, arch := range []string{"amd64", "arm64"} {
		deb := built(t, current, "imdsfs_*_"+arch+".deb")
		var contents, pages []string
		for _, h := range debFiles(t, deb) {
			name := filepath.Join("/", h.Name)
			info := h.FileInfo()
			if h.Uid != 0 || h.Gid != 0 || h.Uname != "root" || h.Gname != "root" {
				t.Errorf("%s: %s belongs to %s:%s", arch, name, h.Uname, h.Gname)
			}
			switch page := subcommandPage.FindStringSubmatch(name); {
			case page != nil:
				pages = append(pages, page[1])
			case ours.MatchString(filepath.Base(name)) || strings.HasPrefix(name, "/usr/share/doc/imdsfs/"):
				if h.Linkname != "" {
					name += " -> " + h.Linkname
				}
				contents = append(contents, fmt.Sprint(info.Mode(), " ", name))
			case info.IsDir():
			default:
				t.Errorf("%s: %s is not to be there", arch, name)
			}
			if info.IsDir() && info.Mode() != fs.ModeDir|0o755 {
				t.Errorf("%s: %s is of mode %v", arch, name, info.Mode())
			}
		}
		slices.SortFunc(contents, func(a, b string) int { return strings.Compare(a[11:], b[11:]) })
		if got := "\n" + strings.Join(contents, "\n") + "\n"; got != debContents {
			t.Errorf("%s holds%swant%s", arch, got, debContents)
		}
		slices.Sort(pages)
		if want := subcommands(t, built(t, current, "imdsfs-linux-"+runtime.GOARCH)); !slices.Equal(pages, want) {
			t.Errorf("%s has man pages of %v, want %v", arch, pages, want)
		}
		if got := output(t, "dpkg-deb", "-f", deb, "Architecture", "Package"); got != "Architecture: "+arch+"\nPackage: imdsfs\n" {
			t.Errorf("the control file says %s", got)
		}
		if got := string(controlFile(t, deb, "conffiles")); got != "/etc/imdsfs/imdsfs.toml\n" {
			t.Errorf("conffiles are %q", got)
		}
	}
}

// The examples are the valid instance files of the repository. They are valid where they are installed too. Other files
// are the same as in the repository.
func TestDebHoldsExamplesAndWhatMonitorsRead(t *testing.T) {
	t.Parallel()
	kit.RequireCommand(t, "dpkg-deb")
	doc := filepath.Join(unpack(t, built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")), "usr/share/doc/imdsfs")
	sources := map[string]string{
		"grafana-dashboard.json": "contrib/grafana/imdsfs.json",
		"openapi.yaml":           "contrib/openapi.yaml",
		"prometheus-rules.yml":   "contrib/prometheus/imdsfs.rules.yml",
		"imdsd.conf":             "contrib/systemd/imdsd.conf",
		"README.md":              "README.md",
		"SECURITY.md":            "SECURITY.md",
	}
	instances, err := filepath.Glob(repository + "/testdata/instances/*.toml")
	if err != nil || len(instances) == 0 {
		t.Fatalf("there are no instance files: %v", err)
	}
	check := []string{"check", "--quiet"}
	for _, file := range instances {
		example := filepath.Join("examples", filepath.Base(file))
		sources[example] = filepath.Join("testdata/instances", filepath.Base(file))
		check = append(check, filepath.Join(doc, example))
	}
	for name, source := range sources {
		if kit.ReadFile(t, filepath.Join(doc, name)) != kit.ReadFile(t, filepath.Join(repository, source)) {
			t.Errorf("/usr/share/doc/imdsfs/%s is not %s", name, source)
		}
	}
	if out, err := exec.Command(built(t, current, "imdsfs-linux-"+runtime.GOARCH), check...).CombinedOutput(); err != nil {
		t.Errorf("imdsfs check: %v\n%s", err, out)
	}
}

// The man page of imdsfs refers to those of its subcommands.
func TestManPageNamesTheSubcommands(t *testing.T) {
	t.Parallel()
	kit.RequireCommand(t, "dpkg-deb")
	root := unpack(t, built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb"))
	page := strings.ReplaceAll(output(t, "gzip", "-dc", filepath.Join(root, "usr/share/man/man1/imdsfs.1.gz")), `\-`, "-")
	for _, name := range subcommands(t, built(t, current, "imdsfs-linux-"+runtime.GOARCH)) {
		if !strings.Contains(name, "-") && !strings.Contains(page, "imdsfs-"+name+"(1)") {
			t.Errorf("imdsfs(1) does not name imdsfs-%s(1)", name)
		}
	}
}

func TestEverythingIsDatedByTheCommit(t *testing.T) {
	t.Parallel()
	kit.RequireCommand(t, "dpkg-deb")
	seconds := strings.TrimSpace(output(t, "git", "log", "-1", "--format=%ct"))
	for _, h := range debFiles(t, built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")) {
		if fmt.Sprint(h.ModTime.Unix()) != seconds {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
	}
	// A man page has a month.
	gz := filepath.Join(unpack(t, built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb")), "usr/share/man/man1/imdsfs-serve.1.gz")
	page := output(t, "gzip", "-dc", gz)
	date := output(t, "date", "-u", "-d", "@"+seconds, "+%b %Y")
	if !strings.Contains(page, `.TH "IMDSFS-SERVE" "1" "`+strings.TrimSpace(date)+`"`) {
		t.Errorf("the man page starts with %.100s", page)
	}
}

func TestCompletionsAreScriptsOfTheirShells(t *testing.T) {
	t.Parallel()
	kit.RequireCommand(t, "dpkg-deb", "bash")
	root := unpack(t, built(t, current, "imdsfs_*_"+runtime.GOARCH+".deb"))
	// Completion runs the program, which has to be in PATH.
	script := `PATH=` + root + `/usr/bin:$PATH
. ` + root + `/usr/share/bash-completion/completions/imdsfs
complete -p imdsfs
_get_comp_words_by_ref() { cur=${COMP_WORDS[COMP_CWORD]}; words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD; }
COMP_WORDS=(imdsfs opt) COMP_CWORD=1 COMP_LINE="imdsfs opt" COMP_POINT=10 COMP_TYPE=9
_init_completion() { _get_comp_words_by_ref; }
__start_imdsfs
echo "${COMPREPLY[0]}"`
	if out := output(t, "bash", "-c", script); !strings.HasSuffix(strings.TrimSpace(out), "\noptions") {
		t.Errorf("bash completes imdsfs opt to %s", out)
	}
	for file, first := range map[string]string{"zsh/vendor-completions/_imdsfs": "#compdef imdsfs\n", "fish/vendor_completions.d/imdsfs.fish": "# fish completion for imdsfs"} {
		if text := kit.ReadFile(t, filepath.Join(root, "usr/share", file)); !strings.HasPrefix(text, first) {
			t.Errorf("%s starts with %.40q", file, text)
		}
	}
}

// debFiles are the headers of the files in a package.
func debFiles(t testing.TB, deb string) []*tar.Header {
	t.Helper()
	archive := tar.NewReader(strings.NewReader(output(t, "dpkg-deb", "--fsys-tarfile", deb)))
	var headers []*tar.Header
	for {
		h, err := archive.Next()
		if err == io.EOF {
			return headers
		}
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
	}
}

func controlFile(t testing.TB, deb, name string) []byte {
	t.Helper()
	return []byte(output(t, "dpkg-deb", "-I", deb, name))
}

// unpack unpacks a package and returns the directory.
func unpack(t testing.TB, deb string) string {
	t.Helper()
	dir := t.TempDir()
	output(t, "dpkg-deb", "-x", deb, dir)
	return dir
}

// subcommands are those that the shell completion knows, sorted; "options set" is options-set.
func subcommands(t testing.TB, imdsfs string) []string {
	t.Helper()
	var names []string
	var descend func(words []string)
	descend = func(words []string) {
		args := append(append([]string{"__complete"}, words...), "")
		for line := range strings.Lines(output(t, imdsfs, args...)) {
			name, _, described := strings.Cut(line, "\t")
			if !described || strings.HasPrefix(name, "-") || name == "help" || name == "completion" {
				continue
			}
			command := append(slices.Clone(words), name)
			names = append(names, strings.Join(command, "-"))
			descend(command)
		}
	}
	descend(nil)
	slices.Sort(names)
	if len(names) < 10 {
		t.Fatalf("completion knows only %v", names)
	}
	return names
}

// output is the output of a command that has to succeed.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, &stderr)
	}
	return string(out)
}
