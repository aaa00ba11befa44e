package packaging

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

// described are the descriptions by git of successive commits, and the versions of their packages.
var described = []struct{ git, date, version string }{
	{"0123456789ab", "1767366245", "0.0.0~git20260102150405.0123456789ab"},
	{"00f3456789ab-dirty", "1767366246", "0.0.0~git20260102150406.00f3456789ab+dirty"},
	{"v0.9.0", "1767366247", "0.9.0"},
	{"v1.0.0-rc.1", "1767366247", "1.0.0~rc.1"},
	{"v1.0.0-rc.1-4-g0123456789ab", "1767366247", "1.0.0~rc.1+4.g0123456789ab"},
	{"v1.0.0-rc.2", "1767366247", "1.0.0~rc.2"},
	{"v1.0.0", "1767366247", "1.0.0"},
	{"v1.0.0-9-g0123456789ab", "1767366247", "1.0.0+9.g0123456789ab"},
	{"v1.0.0-10-g0023456789ab-dirty", "1767366247", "1.0.0+10.g0023456789ab+dirty"},
	{"v1.0.1", "1767366247", "1.0.1"},
}

func packageVersion(git, date string) (string, error) {
	cmd := exec.Command(repository+"/contrib/package/version", git)
	cmd.Env = append(cmd.Environ(), "SOURCE_DATE_EPOCH="+date)
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func TestVersionsSortAsTheirCommits(t *testing.T) {
	kit.RequireCommand(t, "bash", "dpkg")
	for i, d := range described {
		version, err := packageVersion(d.git, d.date)
		if err != nil || version != d.version {
			t.Errorf("%s becomes %q, %v; want %s", d.git, version, err, d.version)
		}
		if i > 0 {
			if err := exec.Command("dpkg", "--compare-versions", described[i-1].version, "lt", version).Run(); err != nil {
				t.Errorf("dpkg does not sort %s before %s", described[i-1].version, version)
			}
		}
	}
	for _, odd := range []string{"release-1", "v1.0.0_1", ""} {
		if version, err := packageVersion(odd, "1767366245"); err == nil {
			t.Errorf("%q becomes %s", odd, version)
		}
	}
}
