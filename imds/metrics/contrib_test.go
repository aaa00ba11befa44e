package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/imdsfs/imdsfs/testdata/kit"
)

const (
	contrib  = "../../contrib"
	promtool = "../../.deps/prometheus/usr/bin/promtool" // unpacked by .ci/deps
)

func runPromtool(t *testing.T, args ...string) {
	t.Helper()
	_, err := os.Stat(promtool)
	kit.Require(t, err == nil, "promtool, which .ci/deps unpacks")
	tool, err := filepath.Abs(promtool)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(tool, args...)
	cmd.Dir = contrib + "/prometheus"
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func TestAlertRulesAreValid(t *testing.T) { runPromtool(t, "check", "rules", "imdsfs.rules.yml") }
func TestAlertsFireWhenTheyShouldOnly(t *testing.T) {
	runPromtool(t, "test", "rules", "imdsfs.test.yml")
}

// ruleLines are the values of a key in the rules file, where each has one line.
func ruleLines(t *testing.T, key string) []string {
	t.Helper()
	var values []string
	for _, m := range regexp.MustCompile(`(?m)^[ -]*`+key+`: (.+)$`).FindAllStringSubmatch(kit.ReadFile(t, contrib+"/prometheus/imdsfs.rules.yml"), -1) {
		values = append(values, m[1])
	}
	return values
}

func TestEveryAlertIsTested(t *testing.T) {
	tests := kit.ReadFile(t, contrib+"/prometheus/imdsfs.test.yml")
	alerts := ruleLines(t, "alert")
	if len(alerts) < 8 {
		t.Fatalf("only %d alerts found: %q", len(alerts), alerts)
	}
	for _, name := range alerts {
		fires := regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:( &\w+)?\n +- exp_labels`)
		if !fires.MatchString(tests) {
			t.Errorf("no test in which %s fires", name)
		}
		if !strings.Contains(tests, "alertname: "+name+", exp_alerts: []") {
			t.Errorf("no test in which %s does not fire", name)
		}
	}
}

func TestRulesUseExportedMetrics(t *testing.T) {
	expressions := ruleLines(t, "expr")
	if alerts := ruleLines(t, "alert"); len(expressions) != len(alerts) {
		t.Fatalf("%d expressions found for %d alerts: has one more than a line?", len(expressions), len(alerts))
	}
	wantExported(t, expressions)
}

func TestDashboardUsesExportedMetrics(t *testing.T) {
	var dashboard struct {
		Title      string
		Templating struct {
			List []struct{ Definition string }
		}
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	text := kit.ReadFile(t, contrib+"/grafana/imdsfs.json")
	if err := json.Unmarshal([]byte(text), &dashboard); err != nil {
		t.Fatal(err)
	}
	var expressions []string
	ids := map[int]bool{}
	for i, p := range dashboard.Panels {
		if p.ID == 0 || ids[p.ID] || p.Title == "" || len(p.Targets) == 0 {
			t.Errorf("panel %q: its id %d is not its own, or it has no title or target", p.Title, p.ID)
		}
		ids[p.ID] = true
		a := p.GridPos
		for _, q := range dashboard.Panels[:i] {
			b := q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("panels %q and %q overlap", p.Title, q.Title)
			}
		}
		for _, target := range p.Targets {
			expressions = append(expressions, target.Expr)
		}
	}
	if len(expressions) < 10 {
		t.Fatalf("only %d expressions in %q", len(expressions), dashboard.Title)
	}
	for _, v := range dashboard.Templating.List {
		if v.Definition != "" {
			expressions = append(expressions, v.Definition)
		}
	}
	used := wantExported(t, expressions)
	for name := range exported(t) {
		base := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")
		if strings.HasPrefix(name, namespace+"_") && !slices.ContainsFunc(used, func(u string) bool { return strings.HasPrefix(u, base) }) {
			t.Errorf("the dashboard does not show %s", name)
		}
	}
}

// exported are the names of all series of a scrape.
func exported(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z]\w*)[ {]`).FindAllStringSubmatch(scrape(t, exporterOf(filled())), -1) {
		names[m[1]] = true
	}
	return names
}

// wantExported fails the test for names in the expressions that are not our series. It returns all names.
func wantExported(t *testing.T, expressions []string) []string {
	t.Helper()
	names := exported(t)
	var used []string
	for _, e := range expressions {
		found := metricsIn(e)
		if len(found) == 0 {
			t.Errorf("no metric in %q", e)
		}
		for _, name := range found {
			if !names[name] && name != "up" { // up is Prometheus's own
				t.Errorf("%s in %q is not exported", name, e)
			}
		}
		used = append(used, found...)
	}
	return used
}

var (
	// label_values(SELECTOR, LABEL) is a function of Grafana.
	labelValues = regexp.MustCompile(`^label_values\(([^,]*(\{[^}]*\})?), \w+\)$`)
	notMetrics  = regexp.MustCompile(`"[^"]*"|\{[^{}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)`)
	identifiers = regexp.MustCompile(`[a-zA-Z_][a-zA-Z0-9_:]*\s*\(?`)
)

// metricsIn are the names in a PromQL expression that are neither functions, operators nor labels.
func metricsIn(expression string) []string {
	expression = labelValues.ReplaceAllString(expression, "$1")
	for range 2 { // a string in braces may hold braces itself
		expression = notMetrics.ReplaceAllString(expression, " ")
	}
	var names []string
	for _, word := range identifiers.FindAllString(expression, -1) {
		word = strings.TrimSpace(word)
		if !strings.HasSuffix(word, "(") && !slices.Contains([]string{"and", "or", "unless", "bool", "offset"}, word) {
			names = append(names, word)
		}
	}
	return names
}

func TestMetricsInAnExpression(t *testing.T) {
	for expression, want := range map[string][]string{
		`up{job="a{b}"} == 0`: {"up"},
		`sum by (version, code) (rate(x_total{job=~"$job", instance=~"$i"}[$__rate_interval]))`: {"x_total"},
		`a_seconds - time() < 15 * 60 and on (instance) b`:                                      {"a_seconds", "b"},
		`histogram_quantile(0.5, sum by (le) (rate(h_bucket[5m])))`:                             {"h_bucket"},
		`label_values(info{job=~"$job"}, instance)`:                                             {"info"},
	} {
		if got := metricsIn(expression); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", expression, got, want)
		}
	}
}
