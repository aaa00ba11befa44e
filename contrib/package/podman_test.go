package packaging

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/testdata/kit"
	"github.com/imdsfs/imdsfs/testdata/stress"
)

// podmanFlags let containers run without a network and without the cgroup controllers that the machine lacks.
var podmanFlags = strings.Fields(`--root /var/lib/podman --runroot /run/podman --storage-driver vfs --runtime runc
	run --rm --cgroups no-conmon --cgroup-parent /podman --pids-limit -1 --ulimit nofile=1024:1024 --ulimit nproc=1024:1024
	--network none --log-driver none`)

// container is a podman container in the machine, with the machine's root and the mount as a volume.
func (m *machine) container() stress.Place {
	m.t.Helper()
	libraries := "/usr/lib/*-linux-gnu/"
	for dir, pattern := range map[string]string{
		deps(m.t, "podman"): "/usr/bin/podman", deps(m.t, "conmon"): "/usr/bin/conmon", deps(m.t, "runc"): "/usr/sbin/runc",
		deps(m.t, "libgpgme11"): libraries + "libgpgme.so.11", deps(m.t, "libsubid4"): libraries + "libsubid.so.4",
		"/": libraries + "libassuan.so.0", "//": libraries + "libglib-2.0.so.0",
	} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		kit.Require(m.t, err == nil && len(files) > 0, pattern+" (run .ci/deps as root on Debian for "+runtime.GOARCH+")")
		text, err := os.ReadFile(files[0])
		if err != nil {
			m.t.Fatal(err)
		}
		m.write(strings.TrimPrefix(files[0], strings.TrimRight(dir, "/")), string(text))
	}
	m.write("/etc/containers/policy.json", `{"default": [{"type": "insecureAcceptAnything"}]}`)
	m.write("/etc/containers/containers.conf", "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\n")
	m.run("chmod 755 /usr/bin/podman /usr/bin/conmon /usr/sbin/runc; mkdir /srv/root; mount --bind / /srv/root")
	return stress.Place{
		Name: "podman", Dir: "/metadata" + stressed,
		Command: func(variable string, args ...string) *exec.Cmd {
			return m.command(context.Background(), "podman", slices.Concat(podmanFlags, []string{
				"--volume", "/run/metadata:/metadata:ro", "--volume", boardPath + ":" + boardPath, "--env", variable, "--env", "GOMAXPROCS=1", "--rootfs", "/srv/root", readerPath,
			}, args)...)
		},
	}
}
