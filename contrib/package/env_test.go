package packaging

import (
	"os"
	"strings"
	"testing"
)

// systemd and the shell read from imdsfs env exactly the values of the service.
func TestSystemdReadsTheEnvironmentFile(t *testing.T) {
	t.Parallel()
	m := installed(t)
	values := map[string]string{
		"hostname":      "a b $HOME ${HOME} `id` \"q\" 's' \\ \\\\ \\n \\$ %h # ; ! é\t",
		"instance-type": " first\n\nsecond\\\nthird\r\n# fourth\n",
		"ami-id":        "not asked for",
	}
	m.run("systemctl start imdsfs")
	for path, value := range values {
		m.write("/root/value", value)
		m.run("imdsfs set " + path + " - </root/value")
	}
	values["instance-id"] = m.run("imdsfs get instance-id")
	m.run("imdsfs env >/run/environment")
	m.write("/etc/systemd/system/reader.service", `[Service]
Type=oneshot
EnvironmentFile=/run/environment
ExecStart=/bin/sh -c 'env -0 >/run/read-by-systemd'
`)
	m.run(`systemctl daemon-reload; systemctl start reader; set -a; . /run/environment; env -0 >/run/read-by-shell`)
	for _, reader := range []string{"systemd", "shell"} {
		text, err := os.ReadFile(m.path("/run/read-by-" + reader))
		if err != nil {
			t.Fatal(err)
		}
		read := map[string]string{}
		for variable := range strings.SplitSeq(string(text), "\x00") {
			name, value, _ := strings.Cut(variable, "=")
			read[name] = value
		}
		for name, path := range map[string]string{"HOSTNAME": "hostname", "INSTANCE_TYPE": "instance-type", "INSTANCE_ID": "instance-id"} {
			if got := read["AFTERBURN_AWS_"+name]; got != values[path] {
				t.Errorf("%s reads %s as %q, want %q", reader, name, got, values[path])
			}
		}
		if region := read["AFTERBURN_AWS_REGION"]; region == "" {
			t.Errorf("%s reads no region", reader)
		}
	}
}
