package main

import (
	"strings"
	"testing"
)

// With the default directories, root's keeper and the daemon of another user mean the same ones.
func TestAKeptDaemonServesInRootsDefaultDirectories(t *testing.T) {
	requireMount(t)
	program(t, t.TempDir()+"/imdsfs", "one") // built before the site says where temporary files go
	w := newMountSite(t, webFile, "")
	program(t, w.base+"/imdsfs", "one")
	w.run("ip link set lo up; chmod 755 /run /var/lib")
	for _, flags := range []string{"", " --listen link-local --add-addresses"} {
		line := w.base + "/imdsfs serve -c " + w.file + " --keep --user nobody --listen 127.0.0.1:0 --mount " + w.mount + flags +
			" >" + w.base + "/log 2>&1 & echo $!"
		pid := strings.TrimSpace(w.run("chmod 644 " + w.file + "; " + line))
		eventually(t, "ready", func() bool {
			if _, code := w.try("kill -0 " + pid); code != 0 {
				t.Fatalf("it ended:\n%s", readFile(t, w.base+"/log"))
			}
			return strings.Contains(readFile(t, w.base+"/log"), "msg=ready")
		})
		for _, command := range []string{"status", "get instance-id", "options get"} {
			if said, code := w.try(w.base + "/imdsfs " + command); code != 0 {
				t.Errorf("%s: exit code %d\n%s", command, code, said)
			}
		}
		if said := w.run("stat -c %U /run/imdsfs /var/lib/imdsfs"); said != "nobody\nnobody\n" {
			t.Errorf("the directories belong to %q", said)
		}
		if flags != "" { // the link goes, and the next daemon has it again
			daemon := strings.TrimSpace(w.run(w.base + "/imdsfs status | sed -n 's/.*pid \\([0-9]*\\),.*/\\1/p' | head -1"))
			w.run("ip link delete imds0; kill -9 " + daemon)
			eventually(t, "the next one has the addresses", func() bool {
				said, code := w.try("ip address show imds0; " + w.base + "/imdsfs status")
				return code == 0 && strings.Contains(said, "169.254.169.254") && !strings.Contains(said, "pid "+daemon+",")
			})
		}
		w.run("kill " + pid)
		eventually(t, "it has ended", func() bool { _, code := w.try("kill -0 " + pid); return code != 0 })
		if said, _ := w.try("ip link show imds0; ls -A /run/imdsfs.mounts"); strings.Contains(said, "imds0:") || strings.Contains(said, "mount-") {
			t.Errorf("left: %s", said)
		}
	}
}
