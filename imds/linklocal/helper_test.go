package linklocal

import (
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

const owner = "/run/a test's"

// provide does what a helper does, and removes the link at the end of the test.
func provide(t *testing.T, config Config) {
	t.Helper()
	if err := Provide(t.Context(), owner, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := Withdraw(owner, nil); err != nil {
			t.Error(err)
		}
	})
}

// given does what the daemon does.
func given(t *testing.T) *Link {
	t.Helper()
	l, err := Given(owner)
	if l == nil || err != nil {
		t.Fatalf("given %v, %v", l, err)
	}
	return l
}

func TestAHelperMakesTheLinkForADaemon(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		if l, err := Given(owner); l != nil || err != nil {
			t.Errorf("before the helper: %v, %v", l, err)
		}
		provide(t, Config{})
		wantAddresses(t, "imds0", both)
		if shown := sh(t, "ip link show dev imds0"); !strings.Contains(shown, "alias imdsfs of "+owner) {
			t.Errorf("for whom it is does not show:\n%s", shown)
		}
		l := given(t)
		if shown := sh(t, "ip -d link show dev imds0"); !strings.Contains(shown, " "+l.Kind()+" ") {
			t.Errorf("kind %q of\n%s", l.Kind(), shown)
		}
		// The option opens and closes the listener. The daemon changes and removes nothing.
		for _, on := range []bool{true, false, true} {
			if err := l.SetIPv6(on); err != nil {
				t.Errorf("SetIPv6(%t): %v", on, err)
			}
		}
		if err := l.Remove(); err != nil {
			t.Error(err)
		}
		wantAddresses(t, "imds0", both)

		// The link is for this daemon only.
		if l, err := Given("/run/other"); l != nil || err != nil {
			t.Errorf("to somebody else: %v, %v", l, err)
		}
		if err := Withdraw("/run/other", nil); err != nil {
			t.Error(err)
		}
		wantAddresses(t, "imds0", both)
		for range 2 {
			if err := Withdraw(owner, nil); err != nil {
				t.Error(err)
			}
			wantAddresses(t, "imds0", "no link")
		}
		if err := l.SetIPv6(true); !errors.Is(err, errGone) {
			t.Errorf("SetIPv6 without the link: %v", err)
		}
	})
}

// The daemon's sockets answer while the helper of its successor runs.
func TestAHelperGoesOnWithItsOwnLink(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		provide(t, Config{})
		start(t, "listener", "serves", 0, nil)
		config := Config{}
		told := warnings(&config)
		index := sh(t, "ip -o link show dev imds0 | cut -d: -f1")
		provide(t, config)
		wantAddresses(t, "imds0", both)
		if got := sh(t, "ip -o link show dev imds0 | cut -d: -f1"); got != index || len(*told) > 0 {
			t.Errorf("link %s becomes %s, with the warnings %q", index, got, *told)
		}
		// The helper of another daemon is refused, and its clean-up removes nothing.
		wantRefusal(t, Provide(t.Context(), "/run/other", Config{}), errInUse, "169.254.169.254:80", "imds0")
		if err := Withdraw("/run/other", nil); err != nil {
			t.Error(err)
		}
		wantAddresses(t, "imds0", both)
	})
}

func TestAHelperTakesOverAnUnmarkedLink(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		kill(start(t, "daemon", "serves", 0, nil))
		if l, err := Given(owner); l != nil || err != nil {
			t.Errorf("before the helper: %v, %v", l, err)
		}
		config := Config{}
		told := warnings(&config)
		provide(t, config)
		if given(t); len(*told) != 1 || !strings.Contains((*told)[0], "taking over") {
			t.Errorf("warnings %q", *told)
		}
		// A daemon with the privilege takes the link over from a helper, which then leaves it alone.
		add(t, Config{})
		if err := Withdraw(owner, nil); err != nil {
			t.Error(err)
		}
		wantAddresses(t, "imds0", ipv4Only)
	})
}

func TestAHelperRefusesAForeignService(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		sh(t, "ip address add 169.254.169.254/32 dev lo")
		wantRefusal(t, Provide(t.Context(), owner, Config{}), errOwned, "169.254.169.254 is on lo")
		wantAddresses(t, "imds0", "no link")
		sh(t, "ip address delete 169.254.169.254/32 dev lo")

		start(t, "cloud", "serves", syscall.CLONE_NEWNET, func(pid int) {
			sh(t, fmt.Sprintf("ip link add eth0 type veth peer name cloud0 && ip link set cloud0 netns %d && ip link set eth0 up && "+
				"ip address add 169.254.1.2/16 dev eth0 && ip -6 address add fd00:ec2::1/64 dev eth0 nodad", pid))
		})
		wantRefusal(t, Provide(t.Context(), owner, Config{}), errAnswered, "169.254.169.254:80", "401")
		wantAddresses(t, "imds0", "no link")
		provide(t, Config{Force: true})
		wantAddresses(t, "imds0", both)
	})
}

// The option may never ask for IPv6, so an obstacle to IPv6 alone is no failure, and the helper hides no other service.
func TestAHelperLeavesIPv6OutWhereItCannotBeHad(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		for _, test := range []struct{ name, before, after, warns string }{
			{"another link's", "ip address add fd00:ec2::254/128 dev lo", "ip address delete fd00:ec2::254/128 dev lo", "fd00:ec2::254 is on lo"},
			{"switched off", "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6", "echo 0 > /proc/sys/net/ipv6/conf/default/disable_ipv6", ""},
		} {
			t.Run(test.name, func(t *testing.T) {
				sh(t, test.before)
				config := Config{}
				told := warnings(&config)
				var indexes []int
				for range 2 { // also when it goes on, with the same link
					provide(t, config)
					wantAddresses(t, "imds0", ipv4Only)
					indexes = append(indexes, given(t).index)
				}
				if indexes[0] != indexes[1] {
					t.Errorf("the link was made anew: %v", indexes)
				}
				if got := strings.Join(*told, "\n"); (got == "") != (test.warns == "") || !strings.Contains(got, test.warns) {
					t.Errorf("warnings %q", got)
				}
				wantRefusal(t, given(t).SetIPv6(true), errLeftOut, "fd00:ec2::254")
				if err := given(t).SetIPv6(false); err != nil {
					t.Error(err)
				}
				sh(t, test.after)
				if err := Withdraw(owner, nil); err != nil {
					t.Error(err)
				}
				provide(t, Config{})
				wantAddresses(t, "imds0", both)
				if err := Withdraw(owner, nil); err != nil {
					t.Error(err)
				}
			})
		}
	})
}

// A daemon without any privilege finds the link and listens.
func TestADaemonWithoutPrivilegeUsesTheLink(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		provide(t, Config{})
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(cmd.Environ(), roleEnv+"=given")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		wantAddresses(t, "imds0", both)
	})
}

// givenRole gives up every privilege and listens on the addresses, on a port that needs none.
func givenRole() error {
	if err := becomeNobody(); err != nil {
		return err
	}
	l, err := Given(owner)
	if l == nil || err != nil {
		return fmt.Errorf("given %v, %v", l, err)
	}
	if err := errors.Join(l.SetIPv6(true), l.SetIPv6(false), l.Remove()); err != nil {
		return err
	}
	for _, host := range []string{"169.254.169.254", "fd00:ec2::254"} {
		listener, err := net.Listen("tcp", net.JoinHostPort(host, "8080"))
		if err != nil {
			return err
		}
		listener.Close()
	}
	return nil
}
