package main

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const restartNotice = "changes of [server] take effect at the next start"

func TestChangesOfServerKeysAreSaidOnce(t *testing.T) {
	state := func(level, tier string) string {
		return fmt.Sprintf("[server]\nlog-level = %q\n%s", level, least("", "tier = '"+tier+"'"))
	}
	file := write(t, "web.toml", state("info", "gold"))
	d := serve(t, file, false)
	served := func(tier string) {
		t.Helper()
		kit.Eventually(t, tier+" is served", func() bool { return d.ask("GET", "/latest/meta-data/tier").body == tier })
	}
	rewrite(t, file, state("info", "silver"))
	served("silver")
	if strings.Contains(d.log.String(), restartNotice) {
		t.Error("nothing below [server] has changed, but the log says so")
	}
	rewrite(t, file, state("debug", "bronze"))
	served("bronze")
	kit.Eventually(t, "it is said", func() bool { return strings.Contains(d.log.String(), restartNotice) })
	rewrite(t, file, state("debug", "iron"))
	served("iron")
	d.signal(syscall.SIGHUP)
	kit.Eventually(t, "it is reloaded", func() bool { return strings.Count(d.log.String(), "msg=reloaded") >= 4 })
	if n := strings.Count(d.log.String(), restartNotice); n != 1 {
		t.Errorf("said %d times", n)
	}
}

// A file whose [server] leaves it out of the sources describes the daemon only. It can be reloaded as well.
func TestAFileThatIsNoSourceCanBeReloaded(t *testing.T) {
	file := write(t, "web.toml", "[server]\nsources = ['host']\n"+least("", ""))
	d := serve(t, file, false)
	for range 2 {
		var out, errs bytes.Buffer
		if code := run([]string{"reload", "--runtime-dir", d.runtime}, &out, &errs); code != 0 {
			t.Fatalf("exit %d: %s%s", code, out.String(), errs.String())
		}
	}
	if got := d.ask("GET", "/latest/meta-data/instance-id"); got.status != 200 || got.body == "i-0a1b2c3d4e5f67890" {
		t.Errorf("%d, and the id is the file's: %s", got.status, got.body)
	}
}
