package packaging

import "testing"

func TestTheMachineIsOfItsOwn(t *testing.T) {
	m := boot(t)
	t.Log(m.run("systemd-analyze; systemd-analyze blame | head; ip a; mount; ps ax || true; cat /proc/self/cgroup; systemctl status | head -30"))
}
