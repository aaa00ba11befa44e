package metrics

import (
	"net/http"
	"time"
)

// A Sample is what the daemon has counted since its start, and how it is, at one moment.
type Sample struct {
	Build Build

	Requests map[Request]uint64 // answered; missing: none
	// MetadataNoToken and MetadataNoTokenRejected are CloudWatch's metrics of these names
	// (namespace AWS/EC2): requests without a token that were answered with metadata, and those
	// that were refused because a token is required.
	MetadataNoToken         uint64
	MetadataNoTokenRejected uint64
	TokensIssued            uint64
	TokensWithheld          uint64 // answers to a token PUT not sent, because the real one would not arrive

	ConnectionsOpen    uint64 // now
	ConnectionsRefused uint64 // of peers that allow-from does not list

	PublishFailures uint64 // changes that did not reach the doors
	Reloads         uint64 // attempts, failures included
	ReloadFailures  uint64
	ReloadFailing   bool // the last attempt failed: what is served is older than the input

	Sources           []Source
	CredentialsExpiry time.Time // of those that expire first; zero: there are none

	Mount *Mount // nil if none is wanted
}

// Build is what the daemon is built from, "" where that is not known.
type Build struct {
	Version string // of imdsfs
	Go      string
	GoFUSE  string
}

// A Request is a kind of request to the metadata service.
type Request struct {
	V2     bool   // meant as IMDSv2: it asks for a token or brings one
	Method string // any; see [Method]
	Code   int    // HTTP status of the answer
}

// A Source is one place that metadata comes from.
type Source struct {
	Name string        // "host", "file" or "overlay"
	Age  time.Duration // since it was last read and found good
}

// A Mount is the state of the FUSE door.
type Mount struct {
	Mounted bool
	Stalled uint64 // changes that the kernel did not take in time
}

// Method is the label of an HTTP method, one of seven whatever the client sends. Whoever counts requests
// by method should count by it, so that no client makes the counters grow.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions:
		return method
	}
	return other
}
