package host

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/tree"
	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	testMachineID = "0123456789abcdef0123456789abcdef"
	testBoot      = "2026-01-02T03:04:05Z" // btime 1767323045
	testStat      = "cpu  1 2 3 4\nintr 5 0 0\nctxt 6\nbtime 1767323045\nprocesses 7\n"
)

// machine writes files below a new root and returns the source that describes it. /proc/stat and
// /etc/machine-id are there unless files says otherwise ("" leaves one out).
func machine(t *testing.T, files map[string]string, interfaces ...Interface) *Source {
	t.Helper()
	root := t.TempDir()
	all := map[string]string{"/proc/stat": testStat, machineIDFile: testMachineID + "\n"}
	maps.Copy(all, files)
	for path, text := range all {
		if text != "" {
			write(t, root, path, text)
		}
	}
	return New(Options{Root: root, Interfaces: func() ([]Interface, error) { return interfaces, nil }})
}

func write(t *testing.T, root, path, text string) {
	t.Helper()
	path = filepath.Join(root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func ethernet(index int, name, mac string, addrs ...string) Interface {
	hw, err := net.ParseMAC(mac)
	if err != nil {
		panic(err)
	}
	i := Interface{Index: index, Name: name, MAC: hw, Up: true}
	for _, a := range addrs {
		i.Addrs = append(i.Addrs, netip.MustParsePrefix(a))
	}
	return i
}

var loopback = Interface{Index: 1, Name: "lo", Up: true, Loopback: true,
	Addrs: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128")}}

func load(t *testing.T, s *Source) *build.Fragment {
	t.Helper()
	f, err := s.Load(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// leaves are the stated leaves as text, by their path below meta-data.
func leaves(f *build.Fragment) map[string]string {
	out := map[string]string{}
	for path, v := range f.Leaves {
		out[strings.TrimPrefix(path, "meta-data/")] = string(v.Bytes)
	}
	return out
}

var describedMachines = []struct {
	name       string
	files      map[string]string
	interfaces []Interface
	want       map[string]string
}{
	{
		name:  "no DMI, no network, no host name",
		files: map[string]string{hostnameFile: "(none)\n"},
		want: map[string]string{
			"instance-id":                 "i-5fbe42e3032e512ef",
			"instance-type":               "imdsfs.host",
			"placement/availability-zone": "local-1a",
		},
	},
	{
		name: "EC2 Nitro",
		files: map[string]string{
			assetTagFile: "i-0a1b2c3d4e5f67890\n", productNameFile: "m5.large\n",
			uuidFiles[0]: "ec2ae145-d1dc-13b2-94ed-0123456789ab\n", hostnameFile: "web-1.example.org\n",
			"/sys/class/net/ens5/device/vendor": "0x1d0f\n",
		},
		interfaces: []Interface{
			loopback,
			ethernet(2, "ens5", "06:2B:3C:4D:5E:6F", "10.0.12.34/20", "2600:1f16:67f:f201::17/128", "fe80::42b:3cff:fe4d:5e6f/64"),
			ethernet(3, "docker0", "02:42:00:00:00:01", "172.17.0.1/16"),
			ethernet(4, "imds0", "02:00:00:00:00:fe", "169.254.169.254/32", "fd00:ec2::254/128"),
		},
		want: map[string]string{
			"instance-id":                 "i-0a1b2c3d4e5f67890",
			"instance-type":               "m5.large",
			"local-hostname":              "web-1.example.org",
			"placement/availability-zone": "local-1a",
			"mac":                         "06:2b:3c:4d:5e:6f",
			"local-ipv4":                  "10.0.12.34",
			"ipv6":                        "2600:1f16:67f:f201::17",
			"network/interfaces/macs/06:2b:3c:4d:5e:6f/mac":                    "06:2b:3c:4d:5e:6f",
			"network/interfaces/macs/06:2b:3c:4d:5e:6f/local-ipv4s":            "10.0.12.34",
			"network/interfaces/macs/06:2b:3c:4d:5e:6f/ipv6s":                  "2600:1f16:67f:f201::17",
			"network/interfaces/macs/06:2b:3c:4d:5e:6f/subnet-ipv4-cidr-block": "10.0.0.0/20",
		},
	},
	{
		name: "EC2 Xen, UUID readable through the hypervisor only",
		files: map[string]string{
			"/sys/hypervisor/uuid": "ec2e1916-9099-7caf-fd21-012345abcdef\n",
			productNameFile:        "HVM domU\n", hostnameFile: "localhost\n",
		},
		want: map[string]string{
			"instance-id":                 "i-ffd21012345abcdef",
			"instance-type":               "HVM-domU",
			"placement/availability-zone": "local-1a",
		},
	},
	{
		name: "a UUID and an asset tag that are not EC2's",
		files: map[string]string{
			uuidFiles[0]: "4c4c4544-0035-3510-8052-b4c04f4b3232\n", assetTagFile: "i-BADTAG\n",
			productNameFile: "Standard PC (Q35 + ICH9, 2009)\n",
		},
		want: map[string]string{
			"instance-id":                 "i-5fbe42e3032e512ef",
			"instance-type":               "Standard-PC-Q35-ICH9-2009",
			"placement/availability-zone": "local-1a",
		},
	},
	{
		name: "two cards, the first without a cable, and two devices of one MAC",
		files: map[string]string{
			"/sys/class/net/eno1/device/vendor": "x", "/sys/class/net/eno2/device/vendor": "x",
			"/sys/class/net/vf0/device/vendor": "x",
		},
		interfaces: []Interface{
			ethernet(9, "vf0", "52:54:00:00:00:02"),
			ethernet(3, "eno2", "52:54:00:00:00:02", "169.254.7.7/16", "192.0.2.2/24", "192.0.2.3/24", "fd00::2/64", "fd00:ec2::254/128"),
			{Index: 2, Name: "eno1", MAC: net.HardwareAddr{0x52, 0x54, 0, 0, 0, 1}},
			{Index: 4, Name: "ib0", MAC: make(net.HardwareAddr, 20), Up: true},
		},
		want: map[string]string{
			"instance-id":                 "i-5fbe42e3032e512ef",
			"instance-type":               "imdsfs.host",
			"placement/availability-zone": "local-1a",
			"mac":                         "52:54:00:00:00:02",
			"local-ipv4":                  "192.0.2.2",
			"ipv6":                        "fd00::2",
			"network/interfaces/macs/52:54:00:00:00:02/mac":                    "52:54:00:00:00:02",
			"network/interfaces/macs/52:54:00:00:00:02/local-ipv4s":            "192.0.2.2\n192.0.2.3",
			"network/interfaces/macs/52:54:00:00:00:02/ipv6s":                  "fd00::2",
			"network/interfaces/macs/52:54:00:00:00:02/subnet-ipv4-cidr-block": "192.0.2.0/24",
			"network/interfaces/macs/52:54:00:00:00:01/device-number":          "1",
			"network/interfaces/macs/52:54:00:00:00:01/mac":                    "52:54:00:00:00:01",
		},
	},
	{
		name: "a container: no device behind any interface",
		interfaces: []Interface{
			loopback,
			ethernet(2, "eth0", "02:42:ac:11:00:02", "2001:db8::2/64"),
			{Index: 3, Name: "dummy0", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 9}},
			{Index: 4, Name: "tun0", Up: true},
			{Index: 5, Name: "tap0", Up: true, MAC: make(net.HardwareAddr, 6)},
		},
		want: map[string]string{
			"instance-id":                 "i-5fbe42e3032e512ef",
			"instance-type":               "imdsfs.host",
			"placement/availability-zone": "local-1a",
			"mac":                         "02:42:ac:11:00:02",
			"ipv6":                        "2001:db8::2",
			"network/interfaces/macs/02:42:ac:11:00:02/mac":   "02:42:ac:11:00:02",
			"network/interfaces/macs/02:42:ac:11:00:02/ipv6s": "2001:db8::2",
		},
	},
}

func TestMachinesAreDescribed(t *testing.T) {
	for _, test := range describedMachines {
		t.Run(test.name, func(t *testing.T) {
			f := load(t, machine(t, test.files, test.interfaces...))
			got := leaves(f)
			for _, path := range slices.Sorted(maps.Keys(test.want)) {
				if got[path] != test.want[path] {
					t.Errorf("%s = %q, want %q", path, got[path], test.want[path])
				}
			}
			for path, text := range got {
				if _, ok := test.want[path]; !ok {
					t.Errorf("%s = %q, want none", path, text)
				}
			}
			if len(f.Warnings) > 0 {
				t.Errorf("warnings: %v", f.Warnings)
			}
		})
	}
}

func TestValuesSayWhereTheyComeFromAndDateFromBoot(t *testing.T) {
	boot, _ := time.Parse(time.RFC3339, testBoot)
	f := load(t, machine(t, map[string]string{hostnameFile: "web-1\n", productNameFile: "m5.large\n"},
		ethernet(2, "eth0", "02:42:ac:11:00:02", "192.0.2.2/24")))
	for path, place := range map[string]string{
		"instance-id": machineIDFile, "instance-type": productNameFile, "local-hostname": hostnameFile,
		"mac": "interface eth0", "network/interfaces/macs/02:42:ac:11:00:02/local-ipv4s": "interface eth0",
	} {
		origin := f.Leaves["meta-data/"+path].Origin
		if origin.Kind != tree.Stated || origin.String() != place {
			t.Errorf("%s comes from %q, want %q, stated", path, origin, place)
		}
	}
	for path, v := range f.Leaves {
		if !v.Mtime.Equal(boot) {
			t.Errorf("%s dates from %v, want %v", path, v.Mtime, boot)
		}
	}
	if got := string(f.Instance["launch-time"].Bytes); got != testBoot {
		t.Errorf("launch-time = %s, want %s", got, testBoot)
	}
	if got := string(f.Instance["architecture"].Bytes); got != architecture(runtime.GOARCH) {
		t.Errorf("architecture = %q, want %q", got, architecture(runtime.GOARCH))
	}
}

func TestArchitectureHasEC2sName(t *testing.T) {
	for goarch, want := range map[string]string{"amd64": "x86_64", "arm64": "arm64", "386": "i386", "riscv64": ""} {
		if got := architecture(goarch); got != want {
			t.Errorf("architecture(%s) = %q, want %q", goarch, got, want)
		}
	}
}

func TestReloadKeepsLaunchTimeWhenTheClockIsStepped(t *testing.T) {
	s := machine(t, nil)
	load(t, s)
	write(t, s.opts.Root, "/proc/stat", "btime 1767329999\n")
	if got := string(load(t, s).Instance["launch-time"].Bytes); got != testBoot {
		t.Errorf("launch-time after a step = %s, want %s", got, testBoot)
	}
}

func TestReloadSeesANewAddress(t *testing.T) {
	s := machine(t, nil)
	address := "192.0.2.2/24"
	s.opts.Interfaces = func() ([]Interface, error) {
		return []Interface{ethernet(2, "eth0", "02:42:ac:11:00:02", address)}, nil
	}
	load(t, s)
	address = "192.0.2.9/24"
	if got := leaves(load(t, s))["local-ipv4"]; got != "192.0.2.9" {
		t.Errorf("local-ipv4 = %s, want 192.0.2.9", got)
	}
}

func TestErrorsNamePlaceAndRemedy(t *testing.T) {
	for _, test := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"no machine id", map[string]string{machineIDFile: ""}, []string{machineIDFile, "no such file", "systemd-machine-id-setup"}},
		{"machine id not made yet", map[string]string{machineIDFile: "uninitialized\n"}, []string{machineIDFile, "hexadecimal", "systemd-machine-id-setup"}},
		{"endless machine id", map[string]string{machineIDFile: strings.Repeat("0", maxAttribute+1)}, []string{machineIDFile, "longer than 4096 bytes"}},
		{"no /proc", map[string]string{"/proc/stat": ""}, []string{"/proc/stat", "no such file", "instance file"}},
		{"no btime", map[string]string{"/proc/stat": "cpu 1\n"}, []string{"/proc/stat", "btime"}},
		{"btime no number", map[string]string{"/proc/stat": "btime -5\n"}, []string{"/proc/stat", "btime"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := machine(t, test.files).Load(context.Background())
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not name %q", err, part)
				}
			}
		})
	}
}

func TestInterfacesThatCannotBeListedAreAnError(t *testing.T) {
	s := machine(t, nil)
	denied := errors.New("denied")
	s.opts.Interfaces = func() ([]Interface, error) { return nil, denied }
	if _, err := s.Load(context.Background()); !errors.Is(err, denied) {
		t.Errorf("error %v, want %v", err, denied)
	}
}

func TestCancelledLoadReadsNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := machine(t, nil).Load(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want %v", err, context.Canceled)
	}
}

func TestHostNameThatIsNoneIsLeftOutWithAWarning(t *testing.T) {
	f := load(t, machine(t, map[string]string{hostnameFile: "web\x1b[31m\nx"}))
	if got, ok := leaves(f)["local-hostname"]; ok {
		t.Errorf("local-hostname = %q, want none", got)
	}
	if len(f.Warnings) != 1 || f.Warnings[0].Place != hostnameFile {
		t.Errorf("warnings %v, want one about %s", f.Warnings, hostnameFile)
	}
}

// The tree of a host is whole: what other packages derive from the fragment is consistent.
func TestTreeOfAHost(t *testing.T) {
	s := machine(t, map[string]string{hostnameFile: "web-1\n"}, ethernet(2, "eth0", "02:42:ac:11:00:02", "192.0.2.2/24"))
	snapshot, err := build.Build(nil, build.Env{Now: time.Unix(1767400000, 0)}, load(t, s))
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"placement/region": "local-1", "placement/availability-zone": "local-1a",
		"hostname": "web-1", "local-hostname": "web-1", "local-ipv4": "192.0.2.2",
		"network/interfaces/macs/02:42:ac:11:00:02/local-hostname": "web-1",
	} {
		v, ok := snapshot.Find("/latest/meta-data/" + path)
		if !ok {
			t.Errorf("%s: none, want %q", path, want)
		} else if got := string(v.Bytes()); got != want {
			t.Errorf("%s = %q, want %q", path, got, want)
		}
	}
	document, ok := snapshot.Find("/latest/dynamic/instance-identity/document")
	if !ok || !strings.Contains(string(document.Bytes()), `"pendingTime" : "`+testBoot+`"`) {
		t.Errorf("the identity document does not say that the instance was launched at boot (present: %v)", ok)
	}
}

// The machine that runs the test, whatever it is: nothing that is stated breaks the tree.
func TestThisMachine(t *testing.T) {
	_, err := os.Stat(machineIDFile)
	kit.Require(t, err == nil, machineIDFile)
	first, second := load(t, New(Options{})), load(t, New(Options{}))
	if _, err := build.Build(nil, build.Env{Now: time.Now()}, first); err != nil {
		t.Error(err)
	}
	id := leaves(first)["instance-id"]
	if !instanceIDPattern.MatchString(id) {
		t.Errorf("instance-id = %q", id)
	}
	if again := leaves(second)["instance-id"]; again != id {
		t.Errorf("instance-id is %s, then %s", id, again)
	}
	machineID, err := os.ReadFile(machineIDFile)
	if err == nil && strings.Contains(string(machineID), strings.TrimPrefix(id, "i-")) {
		t.Error("the instance id gives the machine id away")
	}
}
