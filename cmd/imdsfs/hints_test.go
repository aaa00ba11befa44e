package main

import (
	"context"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/imds/client"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

// said is what a command line says, and its exit code. Nothing that is said may need a daemon.
func said(t *testing.T, line string) (stdout, stderr string, code int) {
	t.Helper()
	var out, err strings.Builder
	code = run(strings.Fields(line), &out, &err)
	return out.String(), err.String(), code
}

func TestMistypedCommandLines(t *testing.T) {
	for line, want := range map[string]string{
		"sevre":              `unknown subcommand "sevre"|did you mean imdsfs serve?`,
		"option get":         `unknown subcommand "option"|did you mean imdsfs options?`,
		"start":              `unknown subcommand "start"|did you mean imdsfs serve?`,
		"validate x.toml":    `unknown subcommand "validate"|did you mean imdsfs check?`,
		"web.toml":           `unknown subcommand "web.toml"|did you mean imdsfs check web.toml, or imdsfs serve -c web.toml?`,
		"serve web.toml":     `unexpected argument "web.toml": imdsfs serve takes no arguments, only flags|did you mean imdsfs serve -c web.toml?`,
		"help sevre":         `unknown subcommand "sevre"|did you mean imdsfs serve?`,
		"help options sett":  `unknown subcommand "sett": imdsfs options takes get, reset, set|did you mean imdsfs options set?`,
		"completion bsh":     `unknown subcommand "bsh": imdsfs completion takes bash, fish, powershell, zsh|did you mean imdsfs completion bash?`,
		"options rest":       `unknown subcommand "rest": imdsfs options takes get, reset, set|did you mean imdsfs options reset?`,
		"tag remove Name":    `unknown subcommand "remove": imdsfs tag takes set, unset|did you mean imdsfs tag unset?`,
		"tag list":           `unknown subcommand "list": imdsfs tag takes set, unset|did you mean imdsfs tree tags/instance?`,
		"--confg x":          `unknown flag: --confg|did you mean imdsfs serve --config?`,
		"-c x":               `unknown shorthand flag: 'c' in -c|did you mean imdsfs serve --config?`,
		"serve --confg x":    `unknown flag: --confg|did you mean --config?`,
		"status -json":       `unknown shorthand flag: 'j' in -json|did you mean --json?`,
		"get -timeout=1s x":  `unknown shorthand flag: 't' in -timeout=1s|did you mean --timeout?`,
		"get --timeout 1 x":  `invalid argument "1" for "--timeout" flag: time: missing unit in duration "1"|give a time such as 5s or 2m`,
		"get a b":            `imdsfs get takes one PATH, not 2 arguments|see imdsfs get --help`,
		"tree a b":           `imdsfs tree takes one PATH at most, not 2 arguments|see imdsfs tree --help`,
		"set mac":            `imdsfs set takes PATH VALUE|see imdsfs set --help`,
		"set mac a secret":   `imdsfs set takes PATH VALUE, not 3 arguments|quote a VALUE that holds blanks`,
		"set mac=secret":     `imdsfs set takes PATH VALUE|did you mean imdsfs set mac VALUE?`,
		"tag set Name=x":     `imdsfs tag set takes KEY VALUE|did you mean imdsfs tag set Name VALUE?`,
		"tag Name web":       `unknown subcommand "Name": imdsfs tag takes set, unset|did you mean imdsfs tag set Name web?`,
		"tag Name=web":       `unknown subcommand "Name=web": imdsfs tag takes set, unset|did you mean imdsfs tag set Name web?`,
		"unset mac a":        `imdsfs unset takes PATH, not 2 arguments|see imdsfs unset --help`,
		"check --quite x":    `unknown flag: --quite|did you mean --quiet?`,
		"status now":         `unexpected argument "now": imdsfs status takes no arguments|see imdsfs status --help`,
		"options set":        `imdsfs options set takes OPTION=VALUE, once or more|for example imdsfs options set http-tokens=required`,
		"options set x=1 y":  `"y" is not OPTION=VALUE|for example http-tokens=required`,
		"options set x=1 x=": `x is given twice|see imdsfs options set --help`,

		"options set http-tokens required":                      `imdsfs options set takes OPTION=VALUE, not "http-tokens required"|did you mean imdsfs options set http-tokens=required?`,
		"options http-tokens required":                          `imdsfs options set takes OPTION=VALUE, not "http-tokens required"|did you mean imdsfs options set http-tokens=required?`,
		"options http-tokens: required":                         `imdsfs options set takes OPTION=VALUE, not "http-tokens: required"|did you mean imdsfs options set http-tokens=required?`,
		"options http-tokens=required":                          `imdsfs options set takes OPTION=VALUE, not "http-tokens=required"|did you mean imdsfs options set http-tokens=required?`,
		"options set HttpTokens required http-endpoint=enabled": `imdsfs options set takes OPTION=VALUE, not "HttpTokens required http-endpoint=enabled"|did you mean imdsfs options set http-tokens=required http-endpoint=enabled?`,
		"options http-tokens":                                   `unknown subcommand "http-tokens"|imdsfs options get prints it; imdsfs options set http-tokens=required changes it`,
		"options set http-put-response-hop-limit":               `imdsfs options set takes OPTION=VALUE, not "http-put-response-hop-limit"|did you mean imdsfs options set http-put-response-hop-limit=2?`,
		"options set --http-tokens required":                    `unknown flag: --http-tokens|options are not flags: did you mean imdsfs options set http-tokens=required?`,
		"set http-tokens required":                              `http-tokens is a metadata option, not metadata|did you mean imdsfs options set http-tokens=required?`,
		"set http-tokens=required":                              `imdsfs set takes PATH VALUE|did you mean imdsfs options set http-tokens=required?`,
		"set /instance-id x":                                    `/instance-id is not below /latest/|did you mean instance-id? Changes show in every version that has the category`,
		"set /latest/instance-id x":                             `/latest/instance-id is not below meta-data, dynamic or user-data|did you mean instance-id?`,
		"unset /run/metadata/latest/meta-data/mac":              `/run/metadata/latest/meta-data/mac is not below /latest/|did you mean mac? Changes show in every version that has the category`,
		"set /2021-03-23/user-data x":                           `/2021-03-23/user-data is not below /latest/|did you mean user-data? Changes show in every version that has the category`,
		"set /2021-03-23/meta-data/rack x":                      `/2021-03-23/meta-data/rack is not below /latest/|changes show in every version that has the category: name it below /latest/`,
		"unset http-tokens":                                     `http-tokens is a metadata option, not metadata|did you mean imdsfs options reset http-tokens?`,
	} {
		text, hint, _ := strings.Cut(want, "|")
		stdout, stderr, code := said(t, line)
		if want := "imdsfs: error: " + text + "\nimdsfs: hint: " + hint + "\n"; stderr != want || stdout != "" || code != exitUsage {
			t.Errorf("imdsfs %s: exit code %d\n%s%swant\n%s", line, code, stdout, stderr, want)
		}
	}
}

func TestVersionFlagPrintsWhatVersionDoes(t *testing.T) {
	want, _, _ := said(t, "version")
	for _, flag := range []string{"--version", "-V"} {
		if got, stderr, code := said(t, flag); got != want || stderr != "" || code != 0 {
			t.Errorf("imdsfs %s: %q, %q, exit code %d; want %q", flag, got, stderr, code, want)
		}
	}
}

// Somebody without rights is told of the service of the machine, and that its admin socket is not for him.
func TestWhoeverMayNotAskTheServiceIsToldOfIt(t *testing.T) {
	kit.RequireMount(t) // root
	kit.RequireCommand(t, "unshare")
	file, err := filepath.Abs(instances + "/web-1.toml")
	if err != nil {
		t.Fatal(err)
	}
	const stranger = "setpriv --reuid 65534 --regid 65534 --clear-groups env XDG_RUNTIME_DIR=/nonexistent "
	daemon := strings.Replace(sandbox, "mount -t tmpfs tmpfs /run", "mount -t tmpfs -o mode=755 tmpfs /run", 1) +
		"mkdir /run/bin; cp $(command -v imdsfs) /run/bin/imdsfs; PATH=/run/bin:$PATH; cp '" + file + "' /run/web.toml\n"
	for name, c := range map[string]struct{ script, stdout, stderr string }{
		"another user's": {
			"imdsfs serve -c /run/web.toml --mount none 2>/dev/null & ready; " + stranger + "imdsfs get instance-id; echo; " + stranger + "imdsfs status; echo $?",
			"i-0a1b2c3d4e5f67890\n1\n",
			"imdsfs: error: a daemon with the run-time directory /run/imdsfs answers HTTP at 127.0.0.1:1338, but only root may use its admin socket\n" +
				"imdsfs: hint: run this as root or as the daemon's user; imdsfs get, tree and env need no such right\n",
		},
		"another user's, without HTTP": {
			"imdsfs serve -c /run/web.toml --listen none --mount /run/md 2>/dev/null & ready; " + stranger + "imdsfs options get; echo $?",
			"1\n",
			"imdsfs: error: /run/imdsfs/admin.sock: permission denied: only root may use it\n" +
				"imdsfs: hint: run this as root or as the daemon's user; imdsfs get, tree and env need no such right\n",
		},
		"the service's user": {
			"mkdir /run/imdsfs /var/lib/imdsfs; chown 65534 /run/imdsfs /var/lib/imdsfs\n" + stranger +
				"imdsfs serve -c none --listen 127.0.0.1:1338 --mount none --runtime-dir /run/imdsfs --state-dir /var/lib/imdsfs 2>/dev/null & ready; " +
				stranger + "imdsfs set instance-id i-0a1b2c3d4e5f67890; imdsfs get instance-id",
			"i-0a1b2c3d4e5f67890", "",
		},
		"without an admin socket": {
			"imdsfs serve -c /run/web.toml --mount none --admin none 2>/dev/null & ready; imdsfs tag set Name x; echo $?",
			"1\n",
			"imdsfs: error: the daemon with the run-time directory /run/imdsfs answers HTTP at 127.0.0.1:1338, but has no admin socket there\n" +
				"imdsfs: hint: it was started with --admin none (admin in [server]), or with another socket: name that with --admin\n",
		},
		"services of single instances alone": {
			"true & mkdir -p /run/imdsfs.instances/a /run/imdsfs.instances/b; imdsfs status; echo $?",
			"1\n",
			"imdsfs: error: no imdsfs is running at /run/imdsfs/admin.sock\n" +
				"imdsfs: hint: name one of these with --runtime-dir: /run/imdsfs.instances/a /run/imdsfs.instances/b\n",
		},
		"none": {
			"true & " + stranger + "imdsfs status; echo $?",
			"1\n",
			"imdsfs: error: no imdsfs is running at /nonexistent/imdsfs/admin.sock or /run/imdsfs/admin.sock\n" +
				"imdsfs: hint: start it with imdsfs serve, or name its --runtime-dir or --admin socket\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			stdout, stderr := inSandbox(t, daemon+c.script+"; kill $! 2>/dev/null; wait $!; true")
			if stdout != c.stdout || stderr != c.stderr {
				t.Errorf("it says\n%s%swant\n%s%s", stdout, stderr, c.stdout, c.stderr)
			}
		})
	}
}

// What another service answers in the place of a daemon is not taken for a daemon's answer.
func TestAnswersOfAnotherServiceSaySo(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		args   string
		want   string
		code   int
	}{
		"403":     {403, "get instance-id", "no session token: PUT URL/latest/api/token: 403 Forbidden (no imdsfs daemon listens here, so URL was asked)", exitFailed},
		"403, v1": {403, "get --v1 instance-id", "GET URL/latest/meta-data/instance-id: 403 Forbidden (no imdsfs daemon listens here, so URL was asked)", exitFailed},
		"404":     {404, "get --v1 public-ipv4", "/latest/meta-data/public-ipv4: no such metadata at URL; no imdsfs daemon listens here", exitNo},
		"tree":    {500, "tree --v1", "GET URL/latest/meta-data/: 500 Internal Server Error (no imdsfs daemon listens here, so URL was asked)", exitFailed},
		"env":     {401, "env --v1", "GET URL/latest/meta-data/instance-id: 401 Unauthorized (no imdsfs daemon listens here, so URL was asked)", exitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(c.status) })}
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go server.Serve(l)
			defer server.Close()
			url := "http://" + l.Addr().String()
			defer func(was string) { lastResort = was }(lastResort)
			lastResort = url
			t.Setenv(client.EndpointVariable, "")
			_, stderr, code := said(t, c.args+" --runtime-dir "+t.TempDir())
			want := "imdsfs: error: " + strings.ReplaceAll(c.want, "URL", url) + "\nimdsfs: hint: " + hintNoDaemon
			if !strings.HasPrefix(stderr, want) || code != c.code {
				t.Errorf("exit code %d\n%swant\n%s", code, stderr, want)
			}
		})
	}
}

func TestPathsThatDoNotExistSayWhatMayBeMeant(t *testing.T) {
	d := serve(t, instances+"/web-1.toml", false)
	for path, want := range map[string]string{
		"instanceid":         "instance-id",
		"public-ip4":         "public-ipv4",
		"tags/instance/name": "tags/instance/Name",
		"networks/interface": "network/interfaces/",
		"network/interfaces/macs/06:2b:3c:4d:5e:6e/subnet": "network/interfaces/macs/06:2b:3c:4d:5e:6f/subnet-id",
		"iam/security-credential/":                         "iam/security-credentials/",
		"user_data":                                        "user-data",
		"metadata/mac":                                     "mac",
		"region":                                           "placement/region",
		"/region":                                          "/latest/meta-data/placement/region",
		"/latest/instance-id":                              "/latest/meta-data/instance-id",
		"/meta-data/mac":                                   "/latest/meta-data/mac",
		"/2021-03-24/meta-data/mac":                        "/2021-03-23/meta-data/mac",
		"latest/meta-data/amiid":                           "ami-id",
		"/run/metadata/latest/meta-data/instance-id":       "/latest/meta-data/instance-id",
		"/srv/md/2021-03-23/dynamic/instance-identity":     "/2021-03-23/dynamic/instance-identity/",
		"run/metadata/latest/meta-data/instance-id":        "instance-id",
		"rack":                                 "",
		"instance-id/of":                       "",
		"/no/such/" + strings.Repeat("x/", 20): "",
	} {
		for _, command := range []string{"get", "tree"} {
			stdout, stderr, code := said(t, command+" --endpoint "+d.url("")+" "+path)
			_, hint, _ := strings.Cut(strings.TrimSuffix(stderr, "\n"), "imdsfs: hint: ")
			if want != "" && hint != "did you mean "+want+"?" || want == "" && hint != "" || code != exitNo || stdout != "" {
				t.Errorf("imdsfs %s %s: exit code %d\n%swant: did you mean %s?", command, path, code, stderr, want)
			}
		}
	}
}

// inSandbox runs a script of shell in namespaces of its own, with defaults of its own.
func inSandbox(t *testing.T, script string) (stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*kit.Patience)
	defer cancel()
	var out, err strings.Builder
	cmd := exec.CommandContext(ctx, "unshare", "-mn", "sh", "-c", script)
	cmd.Stdout, cmd.Stderr = &out, &err
	if failed := cmd.Run(); failed != nil {
		t.Errorf("%v", failed)
	}
	return out.String(), err.String()
}

func TestErrorsNameTheFlagThatChoosesThePath(t *testing.T) {
	kit.RequireMount(t)
	kit.RequireCommand(t, "unshare")
	file, err := filepath.Abs(instances + "/web-1.toml")
	if err != nil {
		t.Fatal(err)
	}
	const serve = "imdsfs serve -c '%s' --listen 127.0.0.1:0 --log-level error "
	places := "mkdir /run/ro /run/small && mount -t tmpfs -o ro tmpfs /run/ro && mount -t tmpfs -o nr_inodes=1 tmpfs /run/small\n"
	script := sandbox + places
	var want strings.Builder
	for _, place := range []string{"ro", "small"} {
		for _, c := range []struct{ flag, others string }{
			{"--mount", ""}, {"--runtime-dir", "--mount none "}, {"--state-dir", "--mount none "}, {"--admin", "--mount none "},
		} {
			script += strings.ReplaceAll(serve, "%s", file) + c.others + c.flag + " /run/" + place + "/it 2>&1 | grep -o -e '^imdsfs: hint.*' | grep -o -e '--.*'\n"
			want.WriteString(c.flag + "\n")
		}
	}
	stdout, _ := inSandbox(t, script+"true")
	if stdout != want.String() {
		t.Errorf("the hints name\n%swant\n%s", stdout, want.String())
	}
}
