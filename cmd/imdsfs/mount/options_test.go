package mount

import (
	"strings"
	"testing"
)

func TestMountOptionsAreFlagsOfServe(t *testing.T) {
	for options, want := range map[string]string{
		"": "",
		"rw,nosuid,noexec,relatime,_netdev,nofail,x-systemd.requires=a.target,X-mount.mkdir,comment=why,users": "",
		"listen=link-local,listen=127.0.0.1:1338,add-addresses,force-addresses":                                "--listen link-local --listen 127.0.0.1:1338 --add-addresses --force-addresses",
		"keep,user=imdsfs,watchdog=30s,ro": "--keep --user imdsfs --watchdog 30s",
		"user,keep":                        "--keep",
		"runtime-dir=/run/web,state-dir=/var/lib/web,admin=/run/web/a":           "--runtime-dir /run/web --state-dir /var/lib/web --admin /run/web/a",
		"admin=none,metrics=127.0.0.1:9338,log-level=debug,log-format=json":      "--admin none --metrics 127.0.0.1:9338 --log-level debug --log-format json",
		"metrics-allow-from=local,metrics-allow-from=10.0.0.0/8":                 "--metrics-allow-from local --metrics-allow-from 10.0.0.0/8",
		"allow-from=local,allow-from=iface:docker0,host=metadata,log=/var/log/i": "--allow-from local --allow-from iface:docker0 --host metadata",
		"suid,exec,dev": "",
	} {
		said := &strings.Builder{}
		r := &Request{Stderr: said, Verbose: true, Options: strings.Split(options, ",")}
		flags, err := r.flags()
		if got := strings.Join(flags.serve, " "); got != want || err != nil {
			t.Errorf("%s: flags %q, %v; want %q", options, got, err, want)
		}
		if noted := strings.Count(said.String(), "is ignored"); noted != 3*strings.Count(options, "suid,exec") {
			t.Errorf("%s: said\n%s", options, said)
		}
	}
}
