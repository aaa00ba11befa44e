package linklocal

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestAddressesAreServedAndGoAway(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		natural := "bridge"
		if exec.Command("ip", "link", "add", "probe0", "type", "dummy").Run() == nil {
			natural = "dummy"
			sh(t, "ip link delete probe0")
		}
		for _, test := range []struct {
			name, kind string
			config     Config
		}{
			{"this kernel's kind", natural, Config{IPv6: true}},
			{"no dummy", "bridge", Config{IPv6: true, linkAdd: noDummy}},
			{"forced", natural, Config{IPv6: true, Force: true}},
		} {
			t.Run(test.name, func(t *testing.T) {
				told := warnings(&test.config)
				l := add(t, test.config)
				if l.Kind() != test.kind {
					t.Errorf("a %s link, want %s", l.Kind(), test.kind)
				}
				if shown := sh(t, "ip -d link show dev imds0"); !strings.Contains(shown, " "+test.kind+" ") || !strings.Contains(shown, ",UP") {
					t.Errorf("want a %s link that is up:\n%s", test.kind, shown)
				}
				wantAddresses(t, "imds0", both)
				for _, host := range []string{"169.254.169.254", "[fd00:ec2::254]"} {
					listener, err := net.Listen("tcp", host+":80")
					if err != nil {
						t.Fatal(err)
					}
					go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "here") }))
					if got := ask(t, host); got != "here" {
						t.Errorf("http://%s/: %q", host, got)
					}
					listener.Close()
				}
				for range 2 {
					if err := l.Remove(); err != nil {
						t.Fatal(err)
					}
					wantAddresses(t, "imds0", "no link")
				}
				if err := l.SetIPv6(true); err != nil {
					t.Errorf("after Remove: %v", err)
				}
				wantAddresses(t, "imds0", "no link")
				if len(*told) > 0 {
					t.Errorf("warnings of nothing: %q", *told)
				}
			})
		}
	})
}

func TestKindsOfLink(t *testing.T) {
	for _, test := range []struct {
		name  string
		errs  []error // of one attempt after the other
		tried string
		want  error
	}{
		{"dummy", []error{nil}, "dummy", nil},
		{"bridge", []error{syscall.EOPNOTSUPP, nil}, "dummy bridge", nil},
		{"neither", []error{syscall.EOPNOTSUPP, syscall.EOPNOTSUPP}, "dummy bridge", errUnsupported},
		{"not allowed", []error{syscall.EPERM}, "dummy", errPrivilege},
		{"another fault", []error{syscall.ENOBUFS}, "dummy", syscall.ENOBUFS},
	} {
		t.Run(test.name, func(t *testing.T) {
			var tried []string
			device, err := create(func(device netlink.Link) error {
				tried = append(tried, device.Type())
				return test.errs[len(tried)-1]
			})
			if !errors.Is(err, test.want) || (err == nil) != (device != nil) {
				t.Errorf("got %v, %v; want %v", device, err, test.want)
			}
			if got := strings.Join(tried, " "); got != test.tried {
				t.Errorf("tried %s, want %s", got, test.tried)
			}
		})
	}
}

func TestIPv6FollowsTheOption(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		l := add(t, Config{})
		wantAddresses(t, "imds0", ipv4Only)
		for _, on := range []bool{true, true, false, false, true} {
			if err := l.SetIPv6(on); err != nil {
				t.Fatal(err)
			}
			want := ipv4Only
			if on {
				want = both
			}
			wantAddresses(t, "imds0", want)
			listener, err := net.Listen("tcp", "[fd00:ec2::254]:80")
			if (err == nil) != on {
				t.Errorf("listen with IPv6 %t: %v", on, err)
			}
			if err == nil {
				listener.Close()
			}
		}
	})
}

// The kernel routes a new IPv6 address to itself only after it has reported the address.
func TestIPv6CanBeReachedAtOnce(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		l := add(t, Config{Force: true}) // do not lose time with probing
		for i := range 300 {
			if err := l.SetIPv6(true); err != nil {
				t.Fatal(err)
			}
			conn, err := net.DialTimeout("tcp", "[fd00:ec2::254]:80", patience)
			if !errors.Is(err, syscall.ECONNREFUSED) { // by this machine, where nobody listens
				t.Fatalf("time %d: %v, %v", i, conn, err)
			}
			if err := l.SetIPv6(false); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestNeverASourceAddress(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		add(t, Config{})
		sh(t, "ip link add eth0 type veth peer name peer0 && ip link set eth0 up && ip route add default dev eth0")
		if got := sh(t, "ip route get 192.0.2.1"); strings.Contains(got, "169.254.169.254") {
			t.Errorf("the source of what is sent elsewhere: %s", got)
		}
	})
}

func TestTakesOverFromAKilledProcess(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for _, test := range []struct {
			name, since string // what happened after the kill
			config      Config
			want        string
		}{
			{"as it was", "true", Config{IPv6: true}, both},
			{"IPv6 is off now", "true", Config{}, ipv4Only},
			{"set down", "ip link set imds0 down", Config{IPv6: true}, both},
			{"without addresses", "ip address flush dev imds0", Config{IPv6: true}, both},
			{"just made", "ip link delete imds0 && ip link add imds0 type bridge", Config{IPv6: true}, both},
		} {
			t.Run(test.name, func(t *testing.T) {
				kill(start(t, "daemon", "serves", 0, nil))
				wantAddresses(t, "imds0", both)
				sh(t, test.since)
				index := sh(t, "ip -o link show dev imds0 | cut -d: -f1")
				told := warnings(&test.config)
				l := add(t, test.config)
				wantAddresses(t, "imds0", test.want)
				if got := sh(t, "ip link show dev imds0"); !strings.Contains(got, ",UP") {
					t.Errorf("not up:\n%s", got)
				}
				if got := sh(t, "ip -o link show dev imds0 | cut -d: -f1"); got != index {
					t.Errorf("the link was made anew: it was number %s, now %s", index, got)
				}
				if len(*told) != 1 || !strings.Contains((*told)[0], "imds0") {
					t.Errorf("warnings %q, want one of imds0", *told)
				}
				if err := l.Remove(); err != nil {
					t.Fatal(err)
				}
				wantAddresses(t, "imds0", "no link")
			})
		}
	})
}

func TestALivingProcessKeepsItsLink(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for _, how := range []string{"serves", "closes", "banner"} {
			t.Run(how, func(t *testing.T) {
				daemon := start(t, "daemon", how, 0, nil)
				refused(t, Config{}, errInUse, "169.254.169.254:80", "imds0")
				wantAddresses(t, "imds0", both)
				add(t, Config{IPv6: true, Force: true}) // as the successor in a handover
				wantAddresses(t, "imds0", both)
				kill(daemon)
			})
		}
	})
}

func TestCoexistsWithSocketActivation(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for name, before := range map[string]string{"first start": "true", "after a kill": "ip link add imds0 type bridge && " +
			"ip link set imds0 up && ip address add 169.254.169.254/32 dev imds0"} {
			t.Run(name, func(t *testing.T) {
				listener := freebind(t, "169.254.169.254:80")
				sh(t, before)
				add(t, Config{})
				go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "activated") }))
				if got := ask(t, "169.254.169.254"); got != "activated" {
					t.Errorf("got %q", got)
				}
			})
		}
	})
}

func TestRemoveLeavesWhatOthersAdded(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for _, test := range []struct{ name, since, left, says string }{
			{"address", "ip address add 10.9.8.7/24 dev imds0", "10.9.8.7/24 brd scope", "10.9.8.7/24"},
			{"another in the same network", "ip address add 169.254.169.253/16 dev imds0", "169.254.169.253/16 scope global", "169.254.169.253/16"},
			{"port", "ip link add eth7 type veth peer name peer7 && ip link set eth7 master imds0", "", "port eth7"},
		} {
			t.Run(test.name, func(t *testing.T) {
				config := Config{IPv6: true, linkAdd: noDummy}
				told := warnings(&config)
				l := add(t, config)
				sh(t, test.since)
				for range 2 {
					if err := l.Remove(); err != nil {
						t.Fatal(err)
					}
				}
				if got := addresses(t, "imds0"); !strings.Contains(got, strings.TrimSuffix(test.left, " brd scope")) || strings.Contains(got, "254/") {
					t.Errorf("on imds0: %s; want %s", got, test.left)
				}
				if len(*told) != 1 || !strings.Contains((*told)[0], test.says) {
					t.Errorf("told %q, want one of %q", *told, test.says)
				}
				refused(t, Config{Force: true}, errNotOurs, "imds0", test.says)
				sh(t, "ip link delete imds0; ip link delete eth7 2>/dev/null; true")
			})
		}
	})
}

func TestLinkThatSomebodyRemoved(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		l := add(t, Config{})
		sh(t, "ip link delete imds0")
		if err := l.SetIPv6(true); !errors.Is(err, errGone) {
			t.Errorf("SetIPv6(true): %v, want %v", err, errGone)
		}
		if err := l.SetIPv6(false); err != nil {
			t.Errorf("SetIPv6(false): %v", err)
		}
		sh(t, "ip link add imds0 type bridge && ip address add 169.254.169.254/32 dev imds0")
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
		wantAddresses(t, "imds0", "169.254.169.254/32 scope global")
	})
}

func TestACancelledAddLeavesNothing(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := Add(ctx, Config{}); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want %v", err, context.Canceled)
		}
		wantAddresses(t, "imds0", "no link")
	})
}
