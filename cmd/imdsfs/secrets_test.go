package main

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Everything that is printed in a full run, logs at debug level included, holds none of the secrets
// that were planted, in any of the forms that one would look for.
func TestNoSecretIsPrinted(t *testing.T) {
	secrets := map[string]string{
		"secret key": "PLANTED/secret+key/aaaaaaaaaaaaaaaaaaaaaa", "session token": "PLANTED-session-token-bbbbbbbbbbbbbbbbb",
		"user-data": "PLANTED-user-data-cccccccccccccccccc", "set value": "PLANTED-set-value-dddddddddddddddddd",
	}
	dir := t.TempDir()
	text := func(extra string) string {
		return "user-data = \"" + secrets["user-data"] + "\"\n" + least("", extra) + `
[credentials.web]
type = "static"
access-key-id = "ASIAEXAMPLE"
secret-access-key-file = "key"
token = "` + secrets["session token"] + "\"\n"
	}
	rewrite(t, dir+"/key", secrets["secret key"]+"\n")
	file := dir + "/web.toml"
	rewrite(t, file, text(""))
	d := serve(t, file, false, "--log-level", "debug", "--metrics", "127.0.0.1:0")

	var printed bytes.Buffer
	command := func(args ...string) {
		cmd := exec.Command("imdsfs", args...)
		cmd.Stdout, cmd.Stderr = &printed, &printed
		cmd.Run() // some have to fail
	}
	rt := []string{"--runtime-dir", d.runtime}
	token := d.token()
	secrets["IMDSv2 token"] = token
	for _, path := range []string{"/latest/user-data", "/latest/meta-data/iam/security-credentials/web"} {
		if r := d.ask("GET", path, "X-aws-ec2-metadata-token", token); !strings.Contains(r.body, "PLANTED") {
			t.Fatalf("%s holds no secret: %q", path, r.body)
		}
		command(append([]string{"get", path + "/nothing"}, rt...)...)
	}
	d.ask("GET", "/latest/user-data", "X-aws-ec2-metadata-token", token+"x")
	d.ask("GET", "/"+secrets["session token"], "X-aws-ec2-metadata-token", secrets["secret key"])
	command(append([]string{"set", "iam/security-credentials/other", secrets["set value"]}, rt...)...)
	command(append([]string{"set", "iam/security-credentials", secrets["set value"]}, rt...)...)
	command(append([]string{"status"}, rt...)...)
	command(append([]string{"status", "--json"}, rt...)...)
	command(append([]string{"tree", "/"}, rt...)...)
	command("check", file)
	d.reload(file, strings.Replace(text(`local-ipv4 = "300.1.1.1"`), "local-ipv4 = \"10.0.12.34\"\n", "", 1), "still serving")
	d.reload(file, text("")+"x = "+secrets["session token"]+"\n", "still serving")
	command("check", file)
	d.reload(file, text("tier = 1"), "the input is good again")
	command(append([]string{"reload"}, rt...)...)
	command(append([]string{"reset"}, rt...)...)
	resp, err := http.Get("http://" + d.metrics() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(&printed, resp.Body)
	resp.Body.Close()
	var overlay any
	if err := d.call("GET", "/v1/overlay", nil, &overlay); err != nil {
		t.Error(err)
	}
	printed.WriteString(strings.Join(strings.Fields(toString(overlay)), " "))
	d.stop()
	printed.WriteString(d.log.String())

	if printed.Len() < 10_000 || !strings.Contains(printed.String(), "[secret]") {
		t.Errorf("only %d bytes were printed", printed.Len())
	}
	for what, s := range secrets {
		for form, s := range map[string]string{"": s, " in base64": base64.StdEncoding.EncodeToString([]byte(s)), " in hex": hex.EncodeToString([]byte(s))} {
			if strings.Contains(printed.String(), s) || strings.Contains(printed.String(), s[:24]) {
				t.Errorf("the %s is printed%s", what, form)
			}
		}
	}
	if _, err := os.Stat(d.runtime + "/core"); err == nil {
		t.Error("there is a core dump")
	}
}
