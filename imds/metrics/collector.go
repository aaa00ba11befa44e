package metrics

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	namespace = "imdsfs"
	other     = "other" // the label of everything without a label of its own
)

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

var (
	buildInfo = describe("build_info", "What imdsfs is built from; always 1.", "version", "goversion", "gofuseversion")

	requests = describe("http_requests_total",
		"Requests to the metadata service that were answered, by version of the protocol (v1 without a token, v2 with one or for one), method and status code.",
		"version", "method", "code")
	noToken = describe("metadata_no_token_total",
		"Requests without a token that were answered with metadata, as MetadataNoToken in CloudWatch.")
	noTokenRejected = describe("metadata_no_token_rejected_total",
		"Requests without a token that were refused because one is required, as MetadataNoTokenRejected in CloudWatch.")
	tokensIssued   = describe("tokens_issued_total", "Session tokens that were handed out.")
	tokensWithheld = describe("tokens_withheld_total",
		"Answers with a token that were not sent, because the hop limit would have lost them on the way to the client.")

	connections        = describe("connections", "Connections to the metadata service that are open.")
	connectionsRefused = describe("connections_refused_total", "Connections that were closed unanswered, because allow-from does not list the peer.")

	publishFailures = describe("publish_failures_total", "Changes that did not reach the mount and HTTP.")
	reloads         = describe("reloads_total", "Attempts to read the sources again.")
	reloadFailures  = describe("reload_failures_total", "Attempts to read the sources again that failed.")
	reloadGood      = describe("last_reload_successful", "Whether the sources were good when they were last read (1) or older metadata is served (0).")

	sourceAge         = describe("source_age_seconds", "Time since the source was last read and found good.", "source")
	credentialsExpiry = describe("credentials_expiry_timestamp_seconds",
		"When the credentials that expire first do so, in seconds since 1970; absent without credentials.")

	mounted = describe("mounted", "Whether the file system is mounted (1) or not (0); absent if no mount is wanted.")
	stalled = describe("mount_stalled_notifies_total", "Changes that the kernel did not take in time: old values may show on the mount.")
)

var plain = []*prometheus.Desc{
	buildInfo, requests, noToken, noTokenRejected, tokensIssued, tokensWithheld, connections, connectionsRefused,
	publishFailures, reloads, reloadFailures, reloadGood, sourceAge, credentialsExpiry, mounted, stalled,
}

func newPublishHistogram() prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace,
		Name:      "publish_duration_seconds",
		Help:      "How long the mount and HTTP took to show a change; the count is that of changes shown.",
		// From a small change on an idle machine to the 5 s after which the mount no longer waits for the kernel.
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5},
	})
}

// Describe implements [prometheus.Collector].
func (e *Exporter) Describe(to chan<- *prometheus.Desc) {
	for _, d := range plain {
		to <- d
	}
	e.published.Describe(to)
}

// Collect implements [prometheus.Collector].
func (e *Exporter) Collect(to chan<- prometheus.Metric) {
	s := e.read()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(buildInfo, 1, s.Build.Version, s.Build.Go, s.Build.GoFUSE)
	for labels, n := range byLabels(s.Requests) {
		count(requests, n, labels[:]...)
	}
	count(noToken, s.MetadataNoToken)
	count(noTokenRejected, s.MetadataNoTokenRejected)
	count(tokensIssued, s.TokensIssued)
	count(tokensWithheld, s.TokensWithheld)
	gauge(connections, float64(s.ConnectionsOpen))
	count(connectionsRefused, s.ConnectionsRefused)
	count(publishFailures, s.PublishFailures)
	count(reloads, s.Reloads)
	count(reloadFailures, s.ReloadFailures)
	gauge(reloadGood, truth(!s.ReloadFailing))
	for name, age := range oldest(s.Sources) {
		gauge(sourceAge, age, name)
	}
	if !s.CredentialsExpiry.IsZero() {
		gauge(credentialsExpiry, float64(s.CredentialsExpiry.UnixMilli())/1000)
	}
	if s.Mount != nil {
		gauge(mounted, truth(s.Mount.Mounted))
		count(stalled, s.Mount.Stalled)
	}
	e.published.Collect(to)
}

// byLabels adds up the requests with the same labels: version, method and code.
func byLabels(all map[Request]uint64) map[[3]string]uint64 {
	sums := map[[3]string]uint64{}
	for r, n := range all {
		version, code := "v1", other
		if r.V2 {
			version = "v2"
		}
		if r.Code >= 100 && r.Code <= 599 {
			code = strconv.Itoa(r.Code)
		}
		sums[[3]string{version, methodLabel(r.Method), code}] += n
	}
	return sums
}

// oldest is the age in seconds by label. Of sources with the same label the oldest counts.
func oldest(sources []Source) map[string]float64 {
	ages := map[string]float64{}
	for _, s := range sources {
		name := s.Name
		switch name {
		case "host", "file", "overlay":
		default:
			name = other
		}
		ages[name] = max(ages[name], s.Age.Seconds())
	}
	return ages
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
