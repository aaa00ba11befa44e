package linklocal

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/problem"
)

// refused checks that adding is refused for that reason, with an error that contains each of says and has a hint.
func refused(t *testing.T, config Config, reason error, says ...string) {
	t.Helper()
	l, err := Add(t.Context(), config)
	if err == nil {
		t.Errorf("not refused: %v", reason)
		l.Remove()
		return
	}
	wantRefusal(t, err, reason, says...)
}

func wantRefusal(t *testing.T, err, reason error, says ...string) {
	t.Helper()
	if !errors.Is(err, reason) || problem.Hint(err) == "" {
		t.Errorf("got %v; want %v, with a hint", err, reason)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

func TestAddressOfAnotherLinkIsRefused(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for _, test := range []struct{ name, owner, address, setUp string }{
			{"IPv4 on lo", "lo", "169.254.169.254/32", ""},
			{"IPv4 in a network", "eth7", "169.254.169.254/16", "ip link add eth7 type veth peer name peer7"},
			{"IPv6 on lo", "lo", "fd00:ec2::254/128", ""},
		} {
			t.Run(test.name, func(t *testing.T) {
				sh(t, test.setUp+"\nip address add "+test.address+" dev "+test.owner)
				addr, _, _ := strings.Cut(test.address, "/")
				refused(t, Config{IPv6: true}, errOwned, addr+" is on "+test.owner)
				wantAddresses(t, "imds0", "no link")

				if strings.Contains(addr, ":") {
					l := add(t, Config{}) // does not want it
					wantRefusal(t, l.SetIPv6(true), errOwned, addr+" is on "+test.owner)
					wantAddresses(t, "imds0", ipv4Only)
					if err := l.Remove(); err != nil {
						t.Fatal(err)
					}
				}

				before := addresses(t, test.owner)
				l := add(t, Config{IPv6: true, Force: true})
				wantAddresses(t, "imds0", both)
				if err := l.Remove(); err != nil {
					t.Fatal(err)
				}
				wantAddresses(t, "imds0", "no link")
				wantAddresses(t, test.owner, before)
				sh(t, "ip address delete "+test.address+" dev "+test.owner)
			})
		}
	})
}

func TestForeignImds0IsRefused(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for _, test := range []struct{ name, setUp, says string }{
			{"of another kind", "ip link add imds0 type veth peer name peer7", "of kind veth"},
			{"with another address", "ip link add imds0 type bridge && ip address add 10.9.8.7/24 dev imds0", "10.9.8.7/24"},
			{"with another IPv4 link-local address", "ip link add imds0 type bridge && ip address add 169.254.7.7/16 dev imds0", "169.254.7.7/16"},
			{"with the address in a network", "ip link add imds0 type bridge && ip address add 169.254.169.254/16 dev imds0", "169.254.169.254/16"},
			{"with a port", "ip link add imds0 type bridge && ip link add eth7 type veth peer name peer7 && ip link set eth7 master imds0", "port eth7"},
		} {
			t.Run(test.name, func(t *testing.T) {
				sh(t, test.setUp)
				show := "ip -d link show dev imds0; ip -o address show dev imds0"
				before := sh(t, show)
				refused(t, Config{}, errNotOurs, "imds0", test.says)
				refused(t, Config{Force: true}, errNotOurs, "imds0", test.says)
				if after := sh(t, show); after != before {
					t.Errorf("it was changed, from\n%sto\n%s", before, after)
				}
				sh(t, "ip link delete imds0; ip link delete eth7 2>/dev/null; true")
			})
		}
	})
}

// The service is another machine on the same wire, as in a cloud.
func TestAnsweringServiceIsRefused(t *testing.T) {
	const (
		neither, ipv4, ipv6 = "nobody", "169.254.169.254:80", "[fd00:ec2::254]:80"
	)
	inNamespace(t, func(t *testing.T) {
		for i, test := range []struct{ how, answers, says string }{
			{"serves", ipv4, "401"},
			{"serves/tcp6", ipv6, "401"},
			{"redirects", ipv4, "302"},
			{"slow", ipv4, "401"},
			{"banner", neither, ""},
			{"closes", neither, ""},
			{"silent", neither, ""},
		} {
			t.Run(test.how, func(t *testing.T) {
				eth := fmt.Sprintf("eth%d", i)
				start(t, "cloud", test.how, syscall.CLONE_NEWNET, func(pid int) {
					sh(t, fmt.Sprintf("ip link add %[1]s type veth peer name cloud0 && ip link set cloud0 netns %[2]d && ip link set %[1]s up && "+
						"ip address add 169.254.1.2/16 dev %[1]s && ip -6 address add fd00:ec2::1/64 dev %[1]s nodad", eth, pid))
				})
				defer sh(t, "ip link delete "+eth)

				defer func(connect, answer time.Duration) { connectTimeout, answerTimeout = connect, answer }(connectTimeout, answerTimeout)
				switch connectTimeout = patience; test.how {
				case "silent":
					answerTimeout = time.Second / 2 // it is waited for, in vain
				case "slow":
				default:
					answerTimeout = patience
				}
				switch test.answers {
				case neither:
					add(t, Config{IPv6: true}).Remove()
				case ipv4:
					refused(t, Config{}, errAnswered, ipv4, test.says)
				case ipv6:
					refused(t, Config{IPv6: true}, errAnswered, ipv6, test.says)
					l := add(t, Config{})
					wantRefusal(t, l.SetIPv6(true), errAnswered, ipv6, test.says)
					wantAddresses(t, "imds0", ipv4Only)
					l.Remove()
				}
				wantAddresses(t, "imds0", "no link")
				add(t, Config{IPv6: true, Force: true})
				wantAddresses(t, "imds0", both)
			})
		}
	})
}

func TestMissingCapabilityIsNamed(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"=nobody")
		out, err := cmd.CombinedOutput()
		if err == nil {
			t.Error("nobody could add it")
		}
		for _, want := range []string{"CAP_NET_ADMIN", "imds0", "socket activation", "ip address add 169.254.169.254/32 dev lo"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("%q does not say %q", out, want)
			}
		}
		wantAddresses(t, "imds0", "no link")
	})
}

func TestIPv6SwitchedOffIsNamed(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		sh(t, "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6")
		refused(t, Config{IPv6: true}, errIPv6Off, "fd00:ec2::254")
		wantAddresses(t, "imds0", "no link")

		l := add(t, Config{})
		wantRefusal(t, l.SetIPv6(true), errIPv6Off, "fd00:ec2::254")
		wantAddresses(t, "imds0", ipv4Only)
		if err := l.SetIPv6(false); err != nil {
			t.Error(err)
		}
		sh(t, "echo 0 > /proc/sys/net/ipv6/conf/imds0/disable_ipv6")
		if err := l.SetIPv6(true); err != nil {
			t.Error(err)
		}
		wantAddresses(t, "imds0", both)
	})
}

// TestAConnectionCountsHoweverLate: the kernel has made the connection before this process looks.
func TestAConnectionCountsHoweverLate(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		conns := connect([]netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2"), netip.MustParseAddr("192.0.2.1")}, 0)
		if conns[0] == nil || conns[1] != nil || conns[2] != nil {
			t.Fatalf("connections %v, want the first alone", conns)
		}
		conns[0].Close()
	})
}
