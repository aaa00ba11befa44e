// Package token issues and verifies IMDSv2 session tokens.
//
//	token.key ──▶ Open ──▶ Authority ──▶ Issue(instance, ttl) ──▶ token ──▶ client
//	                           ▲                                              │
//	                           └──────── Verify(instance, token) ◀────────────┘
//
// Tokens are stateless. A token holds everything needed to check it, sealed with a key that only the daemon knows, so any
// number may be in use and none is stored. [Open] keeps the key in the run-time directory: tokens survive a restart of the
// daemon and end with the boot.
//
//	tokens, err := token.Open("/run/imdsfs", clock.System())
//	t := tokens.Issue("i-0a1b2c3d4e5f67890", 21600)
//	remaining, ok := tokens.Verify("i-0a1b2c3d4e5f67890", t)
//
// A token is 40 bytes, written as 56 characters of URL-safe base64 with padding. It begins with AQAEA, as EC2's do
// (captured 2024 and later):
//
//	bytes  0..3   01 00 04 00
//	bytes  4..15  random nonce
//	bytes 16..23  expiry in nanoseconds of CLOCK_BOOTTIME, big-endian, encrypted
//	bytes 24..39  authentication tag
//
// The cipher is AES-256-GCM. The header and the instance id are authenticated too, so a token of one instance is invalid
// on another. The expiry counts time since boot, so a step of the wall clock neither voids nor prolongs a token. The boot
// clock goes back if a virtual machine is reverted to a snapshot or a time namespace shifts it. Therefore a token that
// would be valid for longer than the maximum is invalid.
package token

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
)

const (
	// MinTTLSeconds and MaxTTLSeconds limit what a client may ask for (EC2 user guide, "How Instance Metadata Service
	// Version 2 works": one second to six hours).
	MinTTLSeconds = 1
	MaxTTLSeconds = 21600
	// Length is that of a token in characters. Text of another length is not decoded.
	Length = 56

	header = "\x01\x00\x04\x00"
	size   = len(header) + 12 + 8 + 16
)

// Strict refuses spare bits in the last character, which would be a second spelling of a token.
var encoding = base64.URLEncoding.Strict()

// An Authority issues and verifies tokens. It is safe for concurrent use.
type Authority struct {
	aead  cipher.AEAD
	clock clock.Clock
}

// New returns an authority that seals with key, which must be random and secret.
//
// Random nonces under one key are safe for 2³² tokens (NIST SP 800-38D §8.3). Beyond that the chance that two nonces are
// equal grows from 2⁻³³. Somebody who holds both tokens could then forge more, but the daemon issues tokens to everybody
// who asks anyway. So the uses of a key are not counted.
func New(key [32]byte, clock clock.Clock) *Authority {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("aes: " + err.Error()) // 32 bytes is a valid key size
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("gcm: " + err.Error()) // an AES block fits
	}
	return &Authority{aead: aead, clock: clock}
}

// Issue returns a token for the instance that is valid for ttlSeconds, which must be in MinTTLSeconds..MaxTTLSeconds.
func (a *Authority) Issue(instanceID string, ttlSeconds int) string {
	expiry := a.clock.Boot() + time.Duration(ttlSeconds)*time.Second
	var plain [8]byte
	binary.BigEndian.PutUint64(plain[:], uint64(expiry))
	sealed := a.aead.Seal([]byte(header), nil, plain[:], additional(instanceID))
	return encoding.EncodeToString(sealed)
}

// Verify reports whether token was issued for the instance and has not expired. remainingSeconds is how long it is still
// valid, rounded up to whole seconds, at most MaxTTLSeconds: right after Issue it is the TTL that was asked for. Any string
// may be given.
func (a *Authority) Verify(instanceID, token string) (remainingSeconds int, ok bool) {
	if len(token) != Length {
		return 0, false
	}
	w := workspaces.Get().(*workspace)
	defer workspaces.Put(w)
	n, err := encoding.Decode(w.raw[:], append(w.text[:0], token...))
	if err != nil || n != size || string(w.raw[:len(header)]) != header {
		return 0, false
	}
	w.additional = append(append(w.additional[:0], header...), instanceID...)
	plain, err := a.aead.Open(w.plain[:0], nil, w.raw[len(header):size], w.additional)
	if err != nil {
		return 0, false
	}
	remaining := time.Duration(binary.BigEndian.Uint64(plain)) - a.clock.Boot()
	if remaining <= 0 || remaining > MaxTTLSeconds*time.Second {
		return 0, false
	}
	return int((remaining + time.Second - 1) / time.Second), true
}

// A workspace is the memory of one Verify. It is kept for the next, because what is passed to a cipher.AEAD would be
// allocated each time.
type workspace struct {
	text       [Length]byte
	raw        [size + 2]byte // the decoder wants room for whole groups of three
	plain      [8]byte
	additional []byte
}

var workspaces = sync.Pool{New: func() any { return new(workspace) }}

func additional(instanceID string) []byte { return []byte(header + instanceID) }
