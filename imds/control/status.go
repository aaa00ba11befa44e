package control

import "time"

// Status is what `imdsfs status` shows. It holds no secret: no token, and no value of the tree except the instance's id.
type Status struct {
	Version   string    `json:"version"`
	PID       int       `json:"pid"`
	Started   time.Time `json:"started"`
	Instance  string    `json:"instance"`
	Config    string    `json:"config"`   // path of the instance file, "" without one
	Handover  string    `json:"handover"` // who keeps the descriptors that a successor needs
	Mount     *Mount    `json:"mount"`    // null without one
	Listeners []string  `json:"listeners"`
	Addresses string    `json:"addresses"` // the link with the link-local addresses: "dummy link imds0", "" if it is not ours
	Sources   []Source  `json:"sources"`
	Options   []Option  `json:"options"`
	RunTime
	Faults   []string `json:"faults"` // of the last reload; empty if it went well
	Peers    []Peer   `json:"peers"`  // that were refused or got no token, the latest first
	Counters Counters `json:"counters"`
}

// RunTime are the changes made at run time.
type RunTime struct {
	Changes []Changed `json:"changes"` // for this instance
	Others  []Others  `json:"others"`  // for other instances
}

// Mount is the state of the mount.
type Mount struct {
	Dir      string            `json:"dir"`
	Resumed  bool              `json:"resumed"`      // made by a predecessor
	Private  bool              `json:"private"`      // made by fusermount3, for our own user only
	Handles  bool              `json:"file-handles"` // CAP_DAC_READ_SEARCH and any part of the mount are enough to read all of it
	Inodes   int               `json:"inodes"`       // known to the kernel
	Stalled  uint64            `json:"stalled"`      // changes that the kernel did not accept within 5 s
	Requests map[string]uint64 `json:"requests"`     // from the kernel, by operation
}

// Source is one source of metadata.
type Source struct {
	Name   string    `json:"name"`
	Loaded time.Time `json:"loaded"`          // when it was last read without a fault; year 1 if not since the start
	Error  string    `json:"error,omitempty"` // why it could not be read since
}

// Peer is a client that was refused or got no token.
type Peer struct {
	Address string    `json:"address"`
	Why     string    `json:"why"`  // "not in allow-from", "got no token at hop limit 1"
	Last    time.Time `json:"last"` // to the minute: reports are throttled
}

// Counters count since the start.
type Counters struct {
	RequestsV2     uint64 `json:"requests-v2"`                // answered with data, with a token
	NoToken        uint64 `json:"metadata-no-token"`          // answered without one, as CloudWatch's MetadataNoToken
	NoTokenRefused uint64 `json:"metadata-no-token-rejected"` // as CloudWatch's MetadataNoTokenRejected
	TokensIssued   uint64 `json:"tokens-issued"`
	TokensWithheld uint64 `json:"tokens-withheld"`
	Connections    uint64 `json:"connections"` // open now
	PeersRefused   uint64 `json:"peers-refused"`
	Publishes      uint64 `json:"publishes"`
	Reloads        uint64 `json:"reloads"`
	ReloadFailures uint64 `json:"reload-failures"`
}
