package metrics

import (
	"net/http"
	"time"
)

// A Sample holds the counters of the daemon since its start, and its state, at one moment.
type Sample struct {
	Build Build

	Requests map[Request]uint64 // that were answered
	// MetadataNoToken and MetadataNoTokenRejected are CloudWatch's metrics of these names (namespace AWS/EC2): requests
	// without a token that were answered with metadata, and those that were refused because a token is required.
	MetadataNoToken         uint64
	MetadataNoTokenRejected uint64
	TokensIssued            uint64
	TokensWithheld          uint64 // tokens not sent, because EC2's would not reach the client

	ConnectionsOpen    uint64 // now
	ConnectionsRefused uint64 // of peers that allow-from does not list

	PublishFailures uint64 // changes that did not reach the mount and HTTP
	Reloads         uint64 // attempts, failures included
	ReloadFailures  uint64
	ReloadFailing   bool // the last attempt failed: what is served is older than the input

	Sources           []Source
	CredentialsExpiry time.Time // of the credentials that expire first; zero: there are none

	Mount *Mount // nil if none is wanted
}

// Build says what the daemon is built from; "" if that is not known.
type Build struct {
	Version string // of imdsfs
	Go      string
	GoFUSE  string
}

// A Request is a kind of request to the metadata service.
type Request struct {
	V2     bool   // of IMDSv2: it asks for a token or brings one
	Method string // any
	Code   int    // HTTP status of the answer
}

// A Source is one source of metadata.
type Source struct {
	Name string        // "host", "file" or "overlay"
	Age  time.Duration // since it was last read and found good
}

// A Mount is the state of the mount.
type Mount struct {
	Mounted bool
	Stalled uint64 // changes that the kernel did not take in time
}

// methodLabel is the label of an HTTP method, one of seven whatever the client sends.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete, http.MethodOptions:
		return method
	}
	return other
}
