package token

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source/clock"
)

const instance = "i-0a1b2c3d4e5f67890"

func authority(t testing.TB) (*Authority, *clock.Manual) {
	t.Helper()
	clock := clock.NewManual(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	return New([32]byte{1, 2, 3}, clock), clock
}

func TestTokenHasTheShapeOfEC2s(t *testing.T) {
	a, _ := authority(t)
	seen := map[string]bool{}
	for range 100 {
		tok := a.Issue(instance, 21600)
		if len(tok) != 56 || !strings.HasPrefix(tok, "AQAEA") || !strings.HasSuffix(tok, "==") {
			t.Fatalf("token %q: want 56 characters AQAEA…==", tok)
		}
		raw, err := base64.URLEncoding.DecodeString(tok)
		if err != nil || len(raw) != 40 || !bytes.HasPrefix(raw, []byte{1, 0, 4, 0}) {
			t.Fatalf("token %q decodes to % x, %v: want 40 bytes 01 00 04 00 …", tok, raw, err)
		}
		if seen[tok] {
			t.Fatalf("token %q was issued twice", tok)
		}
		seen[tok] = true
	}
}

func TestTokenLivesExactlyItsTTL(t *testing.T) {
	for _, ttl := range []int{1, 5, 60, 21600} {
		a, clock := authority(t)
		tok := a.Issue(instance, ttl)
		check := func(when string, want int) {
			t.Helper()
			got, ok := a.Verify(instance, tok)
			if got != want || ok != (want > 0) {
				t.Errorf("ttl %d, %s: Verify = %d, %t; want %d", ttl, when, got, ok, want)
			}
		}
		check("right after issue", ttl)
		clock.Advance(time.Nanosecond)
		check("1 ns later", ttl)
		clock.Advance(time.Duration(ttl)*time.Second - 2*time.Nanosecond)
		check("1 ns before the end", 1)
		clock.Advance(time.Nanosecond)
		check("at the end", 0)
		clock.Advance(time.Hour)
		check("an hour after the end", 0)
	}
}

// The clock goes back if a snapshot of the machine is restored. No token is valid for longer because of that.
func TestNoTokenLivesLongerThanTheLongestLife(t *testing.T) {
	a, now := authority(t)
	now.Advance(10 * time.Hour)
	long, short := a.Issue(instance, MaxTTLSeconds), a.Issue(instance, 60)
	back := New([32]byte{1, 2, 3}, clock.NewManual(now.Now())) // has just booted
	for _, tok := range []string{long, short} {
		if got, ok := back.Verify(instance, tok); ok || got != 0 {
			t.Errorf("10 h back Verify = %d, %t; want it refused", got, ok)
		}
	}
	for _, c := range []struct {
		back time.Duration
		want int
	}{{0, MaxTTLSeconds}, {time.Nanosecond, 0}, {time.Second, 0}, {-time.Second, MaxTTLSeconds - 1}} {
		a, now := authority(t)
		now.Advance(time.Hour)
		tok := a.Issue(instance, MaxTTLSeconds)
		_, earlier := authority(t)
		earlier.Advance(time.Hour - c.back)
		if got, ok := New([32]byte{1, 2, 3}, earlier).Verify(instance, tok); got != c.want || ok != (c.want > 0) {
			t.Errorf("%v back Verify = %d, %t; want %d", c.back, got, ok, c.want)
		}
	}
}

func TestRemainingTimeCountsDown(t *testing.T) {
	a, clock := authority(t)
	tok := a.Issue(instance, 21600)
	clock.Advance(82 * time.Second)
	if got, ok := a.Verify(instance, tok); got != 21518 || !ok {
		t.Errorf("after 82 s Verify = %d, %t; want 21518", got, ok)
	}
}

func TestStepOfTheWallClockChangesNothing(t *testing.T) {
	a, clock := authority(t)
	tok := a.Issue(instance, 60)
	for _, step := range []time.Duration{-100 * 24 * time.Hour, 100 * 24 * time.Hour} {
		clock.Step(clock.Now().Add(step))
		if got, ok := a.Verify(instance, tok); got != 60 || !ok {
			t.Errorf("after a step of %s Verify = %d, %t; want 60", step, got, ok)
		}
	}
}

func TestTokenIsWorthNothingElsewhere(t *testing.T) {
	a, clock := authority(t)
	tok := a.Issue(instance, 60)
	for _, id := range []string{"", "i-0a1b2c3d4e5f67891", instance + "0", instance[:len(instance)-1]} {
		if _, ok := a.Verify(id, tok); ok {
			t.Errorf("a token of %s is good for %q", instance, id)
		}
	}
	if _, ok := New([32]byte{1, 2, 4}, clock).Verify(instance, tok); ok {
		t.Error("a token is good under another key")
	}
}

func TestEveryChangedCharacterVoidsAToken(t *testing.T) {
	a, _ := authority(t)
	tok := a.Issue(instance, 60)
	for i := range tok {
		for _, c := range []byte("AZaz09-_=+/\n\r \x00\xff") {
			changed := tok[:i] + string(c) + tok[i+1:]
			if changed == tok {
				continue
			}
			if _, ok := a.Verify(instance, changed); ok {
				t.Errorf("%q is good although character %d of %q was changed", changed, i, tok)
			}
		}
	}
}

func TestOnlyTheCanonicalSpellingIsGood(t *testing.T) {
	a, _ := authority(t)
	tok := a.Issue(instance, 60)
	// 40 bytes leave four spare bits in the last character before the padding.
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	last := strings.IndexByte(alphabet, tok[53])
	for spare := 1; spare < 16; spare++ {
		other := tok[:53] + string(alphabet[last|spare]) + "=="
		if _, ok := a.Verify(instance, other); ok {
			t.Errorf("%q is a second spelling of %q", other, tok)
		}
	}
	for _, other := range []string{"", tok[:54], tok[:55], tok + "=", tok + "\n", " " + tok, strings.Repeat("A", 56), strings.Repeat(tok, 1000)} {
		if _, ok := a.Verify(instance, other); ok {
			t.Errorf("%q is good", other)
		}
	}
}

// A token made with the right key but another header must not pass: the prefix tells versions apart.
func TestHeaderIsPartOfTheToken(t *testing.T) {
	a, _ := authority(t)
	raw, err := base64.URLEncoding.DecodeString(a.Issue(instance, 60))
	if err != nil {
		t.Fatal(err)
	}
	raw[2] = 0 // 01 00 00 00, EC2's older prefix
	if _, ok := a.Verify(instance, base64.URLEncoding.EncodeToString(raw)); ok {
		t.Error("a token with another header is good")
	}
}

func FuzzVerify(f *testing.F) {
	a, _ := authority(f)
	// A token that was issued under the fixed key, because the processes of a fuzzing run have to use the same.
	const good = "AQAEAJmYctVGL_DEzh8Wh4XdgSOyE0rnxOnXsKu-UDVQsbSHUtXA3g=="
	for _, s := range []string{"", good, good[:55], good + "=", strings.Repeat("A", 56), strings.Repeat("=", 56), strings.Repeat("\n", 56)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if _, ok := a.Verify(instance, s); ok != (s == good) {
			t.Errorf("Verify(%q) = %t; the only token issued is %q", s, ok, good)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	a, _ := authority(b)
	tok := a.Issue(instance, 60)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := a.Verify(instance, tok); !ok {
			b.Fatal("not good")
		}
	}
}
