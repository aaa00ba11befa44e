package main

import (
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// With the default directories, root's keeper and the daemon of another user mean the same ones.
func TestAKeptDaemonServesInRootsDefaultDirectories(t *testing.T) {
	kit.RequireMount(t)
	program(t, t.TempDir()+"/imdsfs", "one") // built before the site says where temporary files go
	w := newMountSite(t, webFile, "")
	program(t, w.base+"/imdsfs", "one")
	w.run("ip link set lo up; chmod 755 /run /var/lib")
	for _, flags := range []string{"", " --listen link-local --add-addresses"} {
		line := w.base + "/imdsfs serve -c " + w.file + " --keep --user nobody --listen 127.0.0.1:0 --mount " + w.mount + flags +
			" >" + w.base + "/log 2>&1 & echo $!"
		pid := strings.TrimSpace(w.run("chmod 644 " + w.file + "; " + line))
		kit.Eventually(t, "ready", func() bool {
			if _, code := w.try("kill -0 " + pid); code != 0 {
				t.Fatalf("it ended:\n%s", kit.ReadFile(t, w.base+"/log"))
			}
			return strings.Contains(kit.ReadFile(t, w.base+"/log"), "msg=ready")
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
			kit.Eventually(t, "the next one has the addresses", func() bool {
				said, code := w.try("ip address show imds0; " + w.base + "/imdsfs status")
				return code == 0 && strings.Contains(said, "169.254.169.254") && !strings.Contains(said, "pid "+daemon+",")
			})
		}
		w.run("kill " + pid)
		kit.Eventually(t, "it has ended", func() bool { _, code := w.try("kill -0 " + pid); return code != 0 })
		if said, _ := w.try("ip link show imds0; ls -A /run/imdsfs.mounts"); strings.Contains(said, "imds0:") || strings.Contains(said, "mount-") {
			t.Errorf("left: %s", said)
		}
	}
}

// A daemon of another user has served in root's default directories; now root's does.
func TestRootTakesItsDefaultDirectoriesBack(t *testing.T) {
	kit.RequireMount(t)
	kit.RequireCommand(t, "setpriv")
	program(t, t.TempDir()+"/imdsfs", "one")
	w := newMountSite(t, webFile, "")
	program(t, w.base+"/imdsfs", "one")
	const refusal = "imdsfs: error: an imdsfs is already running with the run-time directory /run/imdsfs\n"
	serve := func(flags string) (stop func()) {
		t.Helper()
		pid := strings.TrimSpace(w.run("chmod 644 " + w.file + "; " + w.base + "/imdsfs serve -c " + w.file + " --listen 127.0.0.1:0 --mount none " + flags + " >" + w.base + "/log 2>&1 & echo $!"))
		kit.Eventually(t, "ready", func() bool {
			if _, code := w.try("kill -0 " + pid); code != 0 {
				t.Fatalf("it ended:\n%s", kit.ReadFile(t, w.base+"/log"))
			}
			return strings.Contains(kit.ReadFile(t, w.base+"/log"), "msg=ready")
		})
		return func() {
			w.run("kill " + pid)
			kit.Eventually(t, "it has ended", func() bool { _, code := w.try("kill -0 " + pid); return code != 0 })
		}
	}
	w.run("ip link set lo up; chmod 755 /run /var/lib")
	stop := serve("--keep --user nobody")
	w.run(w.base + "/imdsfs options set http-put-response-hop-limit=7")
	// Not while a daemon runs there, and nothing of it changes hands.
	for _, flags := range []string{"", "--keep", "--keep --user daemon"} {
		said, code := w.try(w.base + "/imdsfs serve --mount none --listen 127.0.0.1:0 " + flags)
		if code != exitFailed || !strings.HasPrefix(said, refusal) || strings.Count(said, "\n") != 2 {
			t.Errorf("%s beside a daemon: exit code %d\n%s", flags, code, said)
		}
	}
	if said := w.run("stat -c %U /run/imdsfs /run/imdsfs/* /var/lib/imdsfs | sort -u"); said != "nobody\n" {
		t.Errorf("the directories belong to %q", said)
	}
	if said, code := w.try(w.base + "/imdsfs serve --mount none --listen 127.0.0.1:0 --runtime-dir /run/other"); code != exitFailed || !strings.Contains(said, "/var/lib/imdsfs is the state directory of a running imdsfs") {
		t.Errorf("with its state directory: exit code %d\n%s", code, said)
	}
	for _, flag := range []string{"--mount ''", "--state-dir="} {
		if said, code := w.try(w.base + "/imdsfs serve --listen 127.0.0.1:0 " + flag); code != exitUsage || !strings.Contains(said, " is empty") {
			t.Errorf("%s: exit code %d\n%s", flag, code, said)
		}
	}
	stop()

	// What the last owner leaves there may be meant for root.
	w.run(`cd /var/lib/imdsfs; mkdir -m 755 /var/lib/theirs; echo x >/var/lib/theirs/file; chown 1:1 /var/lib/theirs/file
ln /var/lib/theirs/file linked; ln -s /var/lib/theirs/file link; mkfifo fifo; chown -h nobody link fifo; chmod 750 .
echo secret >moved; chmod 600 moved; mkdir .overlay.json.new /run/imdsfs/subdir; truncate -s 100T sparse; chown nobody sparse
cp moved /run/imdsfs/moved
ln -s /var/lib/theirs/file /run/imdsfs/refused`)
	before := w.run("cat /run/imdsfs/token.key; stat -c %i /var/lib/imdsfs/overlay.json")
	serve("")()
	if said := w.run("stat -c '%n %U %a' /run/imdsfs /var/lib/imdsfs /var/lib/imdsfs/* /var/lib/theirs/file"); said != `/run/imdsfs root 755
/var/lib/imdsfs root 700
/var/lib/imdsfs/fifo nobody 644
/var/lib/imdsfs/launch.json root 600
/var/lib/imdsfs/link nobody 777
/var/lib/imdsfs/linked daemon 644
/var/lib/imdsfs/moved root 600
/var/lib/imdsfs/overlay.json root 600
/var/lib/imdsfs/sparse nobody 644
/var/lib/theirs/file daemon 644
` {
		t.Errorf("there is\n%s", said)
	}
	after := w.run("cat /run/imdsfs/token.key; stat -c %i /var/lib/imdsfs/overlay.json")
	if a, b := strings.Fields(before), strings.Fields(after); a[1] == b[1] || a[len(a)-1] == b[len(b)-1] {
		t.Errorf("the key, or the file of the options, is the one that another user had: %s, %s", before, after)
	}
	stop = serve("--keep --user daemon")
	if said := w.run(w.base + "/imdsfs options get; stat -c %U /var/lib/imdsfs"); !strings.Contains(said, "http-put-response-hop-limit  7 ") || !strings.HasSuffix(said, "\ndaemon\n") {
		t.Errorf("the options are\n%s", said)
	}
	if said := w.run("stat -c %U /var/lib/imdsfs/moved /var/lib/imdsfs/overlay.json /var/lib/theirs/file; ls /run/imdsfs"); !strings.HasPrefix(said, "root\ndaemon\ndaemon\n") || strings.Contains(said, "moved") || strings.Contains(said, "subdir") {
		t.Errorf("what was moved there has changed hands:\n%s", said)
	}
	stop()

	// Elsewhere nothing changes hands.
	w.run("mkdir -m 755 /var/lib/other; chown nobody /var/lib/other")
	if said, code := w.try(w.base + "/imdsfs serve --mount none --runtime-dir /var/lib/other"); code != exitInvalid || !strings.Contains(said, "/var/lib/other belongs to uid 65534") {
		t.Errorf("exit code %d\n%s", code, said)
	}
}
