package main

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"time"
)

var tokenAttacks = []attack{
	{name: "a forwarded PUT", by: client, tries: "`X-Forwarded-For` in any case, empty, twice, with any value", holds: "403, no token", run: func(w *world) error {
		for _, h := range []string{"X-Forwarded-For: 10.0.0.1", "x-forwarded-for: 10.0.0.1", "X-FORWARDED-FOR: x", "X-Forwarded-For:", "X-Forwarded-For:  ", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: a\r\nX-Forwarded-For: b", "x-Forwarded-fOR: unknown, 169.254.169.254"} {
			if err := w.expect(door, strings.Replace(putToken("60"), "\r\n\r\n", "\r\n"+h+"\r\n\r\n", 1), "403"); err != nil {
				return err
			}
		}
		return w.expect(door, putToken("60"), "200")
	}},
	{name: "a forwarded token", by: client, tries: "a good token with `X-Forwarded-For`", holds: "403", run: func(w *world) error {
		t, err := w.token(strictDoor, "60")
		return first(err,
			w.expect(strictDoor, strings.Replace(get(idPath, t), "\r\n\r\n", "\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n", 1), "403"),
			w.expect(strictDoor, get(idPath, t), "200"))
	}},
	{name: "lifetimes out of bounds", by: client, tries: "0, -1, 21601, 10⁹, 10⁴⁰⁰, 2³²+60, 2⁶⁴+60", holds: "400", run: ttls("0", "-1", "21601", "1000000000", strings.Repeat("9", 400), "4294967356", "18446744073709551676")},
	{name: "lifetimes that are no numbers", by: client, tries: "+5, 0x10, 5.0, 1e3, none, `60,60`, `６０`, `60\\v`", holds: "400", run: ttls("+5", "0x10", "5.0", "1e3", "", " ", "60,60", "60 60", "６０", "60s", "NaN", "0b1", "1_0", "٦٠")},
	{name: "several lifetimes, or none", by: client, tries: "two headers, equal or not; no header; the header folded", holds: "400", run: func(w *world) error {
		ttl := "X-aws-ec2-metadata-token-ttl-seconds: "
		return first(
			w.expect(door, "PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\n"+ttl+"60\r\n"+ttl+"60\r\n\r\n", "400"),
			w.expect(door, "PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\n"+ttl+"60\r\n"+ttl+"99999\r\n\r\n", "400"),
			w.expect(door, "PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\n\r\n", "400"),
			w.expect(door, "PUT /latest/api/token HTTP/1.1\r\nHost: localhost\r\n"+ttl+"\r\n 60\r\n\r\n", "400 close"))
	}},
	{name: "a token from elsewhere", by: client, tries: "a token of another daemon, of another instance, of EC2's form but made up", holds: "401, required or not", run: func(w *world) error {
		t, err := w.token(door, "60")
		if err != nil {
			return err
		}
		random := make([]byte, 36)
		rand.Read(random)
		madeUp := base64.URLEncoding.EncodeToString(append([]byte("\x01\x00\x04\x00"), random...))
		return first(
			w.expect(strictDoor, get(idPath, t), "401"),
			w.expect(strictDoor, get(idPath, madeUp), "401"),
			w.expect(door, get(idPath, madeUp), "401"),
			w.expect(door, get(idPath, t), "200"))
	}},
	{name: "every bit of a token", by: client, tries: "a good token with one of its 320 bits flipped", holds: "401 for each", run: func(w *world) error {
		t, err := w.token(strictDoor, "60")
		if err != nil {
			return err
		}
		raw, err := base64.URLEncoding.DecodeString(t)
		if err != nil || len(raw) != 40 {
			return fmt.Errorf("%d bytes, %w", len(raw), err)
		}
		var stream strings.Builder
		for bit := range 8 * len(raw) {
			flipped := bytes.Clone(raw)
			flipped[bit/8] ^= 1 << (bit % 8)
			stream.WriteString(get(idPath, base64.URLEncoding.EncodeToString(flipped)))
		}
		stream.WriteString(get(idPath, t))
		return w.expect(strictDoor, stream.String(), strings.Repeat("401 ", 8*len(raw))+"200")
	}},
	{name: "another spelling of a token", by: client, tries: "cut, padded, in other case, in the other alphabet, with spare bits, quoted, percent-encoded", holds: "401", run: func(w *world) error {
		t, err := w.token(strictDoor, "60")
		if err != nil {
			return err
		}
		spare := t[:53] + string(t[53]+1) + "=="
		for _, other := range []string{"", t[:55], t[:54], t[:40], t[1:], t + "=", t + "A", t + t, "=" + t, strings.ToLower(t), strings.ToUpper(t), spare, `"` + t + `"`, "Bearer " + t, t + ",", t + "," + t,
			t[:20] + " " + t[20:], t[:20] + "\t" + t[20:], strings.Replace(t, "A", "%41", 1), t[:54] + "%3D%3D", "AQAEA", strings.Repeat("A", 56), strings.Repeat("=", 56), "\xff" + t[1:]} {
			if err := w.expect(strictDoor, get(idPath, other), "401"); err != nil && other != "" {
				return err
			}
		}
		return w.expect(strictDoor, "GET "+idPath+" HTTP/1.1\r\nHost: localhost\r\nX-aws-ec2-metadata-token:\r\n\r\n", "401")
	}},
	{name: "two token headers", by: client, tries: "a good token twice, a good and a bad one", holds: "401", run: func(w *world) error {
		t, err := w.token(strictDoor, "60")
		const name = "X-aws-ec2-metadata-token: "
		ask := func(a, b string) string {
			return "GET " + idPath + " HTTP/1.1\r\nHost: localhost\r\n" + name + a + "\r\n" + name + b + "\r\n\r\n"
		}
		return first(err, w.expect(strictDoor, ask(t, t), "401"), w.expect(strictDoor, ask(t, "x"), "401"), w.expect(strictDoor, ask("x", t), "401"))
	}},
	{name: "a token in another place", by: client, tries: "in the query, a cookie, Authorization, the body, a header with underscores", holds: "401 where tokens are required", run: func(w *world) error {
		t, err := w.token(strictDoor, "60")
		if err != nil {
			return err
		}
		for _, request := range []string{
			"GET " + idPath + "?X-aws-ec2-metadata-token=" + t + " HTTP/1.1\r\nHost: localhost\r\n\r\n",
			"GET " + idPath + " HTTP/1.1\r\nHost: localhost\r\nCookie: X-aws-ec2-metadata-token=" + t + "\r\n\r\n",
			"GET " + idPath + " HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + t + "\r\n\r\n",
			"GET " + idPath + " HTTP/1.1\r\nHost: localhost\r\nX_aws_ec2_metadata_token: " + t + "\r\n\r\n",
			"GET " + idPath + " HTTP/1.1\r\nHost: localhost\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n",
			"GET " + idPath + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 56\r\n\r\n" + t,
		} {
			if err := w.expect(strictDoor, request, "401"); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "an expired token", by: client, tries: "a token of one second, after two", holds: "401, required or not", run: func(w *world) error {
		a, errA := w.token(strictDoor, "1")
		b, errB := w.token(door, "1")
		if err := first(errA, errB, w.expect(strictDoor, get(idPath, a), "200|401")); err != nil {
			return err
		}
		time.Sleep(1100 * time.Millisecond) // the test is about this time
		return first(w.expect(strictDoor, get(idPath, a), "401"), w.expect(door, get(idPath, b), "401"))
	}},
	{name: "a token by another method", by: client, tries: "GET, HEAD, POST, PATCH, DELETE, `put`, with `X-HTTP-Method-Override: PUT`", holds: "405, no token", run: func(w *world) error {
		for _, method := range []string{"GET", "POST", "PATCH", "DELETE", "put", "Put", "PUTT", "TRACE", "LOCK"} {
			request := strings.Replace(putToken("60"), "PUT ", method+" ", 1)
			request = strings.Replace(request, "\r\n\r\n", "\r\nX-HTTP-Method-Override: PUT\r\nX-Method-Override: PUT\r\n\r\n", 1)
			if err := w.expect(door, request, "405"); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "a token on another path", by: client, tries: "PUT with a final slash, encoded letters, dots, other versions, other paths", holds: "403 or 404, no token", run: func(w *world) error {
		for _, path := range []string{"/latest/api/token/", "/latest/api/toke%6e", "/lat%65st/api/token", "/latest/./api/token", "/x/../latest/api/token", "/2021-03-23/api/token", "/api/token", "/latest/api", "/latest/api/token/x", "/latest/api/token;x", "/LATEST/api/token", "/", idPath, "/latest/user-data", "/latest%2fapi%2ftoken"} {
			if err := w.deny(door, strings.Replace(putToken("60"), "/latest/api/token", path, 1)); err != nil {
				return err
			}
		}
		return nil
	}},
	{name: "every path without a token", by: client, tries: "GET, HEAD, OPTIONS and POST of every path of the tree and of some that do not exist, where tokens are required", holds: "401 for each: not even which paths exist shows", run: func(w *world) error {
		paths, err := w.paths(strictDoor)
		if err != nil {
			return err
		}
		if len(paths) < 40 {
			return fmt.Errorf("only %d paths: %v", len(paths), paths)
		}
		paths = append(paths, "/no", "/latest/no/such/thing", "/latest/meta-data/no", "/%2e%2e", "//", "/latest/api", "/latest/api/token/")
		for _, method := range []string{"GET", "OPTIONS", "POST", "DELETE"} {
			var stream strings.Builder
			for _, path := range paths {
				stream.WriteString(method + " " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n")
			}
			if err := w.expect(strictDoor, stream.String(), strings.TrimSuffix(strings.Repeat("401 ", len(paths)), " ")); err != nil {
				return err
			}
		}
		return w.deny(strictDoor, "HEAD "+idPath+" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	}},
	{name: "guesses", by: client, tries: "5,000 random tokens", holds: "401 for each", run: func(w *world) error {
		const n = 5000
		var stream strings.Builder
		random := make([]byte, 36)
		for range n {
			rand.Read(random)
			stream.WriteString(get(idPath, base64.URLEncoding.EncodeToString(append([]byte("\x01\x00\x04\x00"), random...))))
		}
		return w.expect(strictDoor, stream.String(), strings.TrimSuffix(strings.Repeat("401 ", n), " "))
	}},
	{name: "a token after a change of the instance or the boot", by: client, tries: "the same run-time directory with another instance, and without its key", holds: "401; the same instance goes on", run: func(w *world) error {
		dir := w.dir()
		flags := []string{"--runtime-dir", dir + "/run", "--state-dir", dir + "/state", "--listen", "127.0.0.1:0", "--mount", "none"}
		t := ""
		expect := func(id, want string) error {
			d, err := w.serve(instance(id, ""), flags...)
			if err != nil {
				return err
			}
			defer d.stop()
			address, err := d.address()
			if err == nil && t == "" {
				t, err = w.token(address, "21600")
			}
			return first(err, w.expect(address, get(idPath, t), want))
		}
		return first(expect(mainID, "200"), expect(strictID, "401"), expect(mainID, "200"), os.Remove(dir+"/run/token.key"), expect(mainID, "401"))
	}},
	{name: "a token from the future", by: client, tries: "a token that was issued when the boot clock was 28 hours ahead (a snapshot of the machine that was reverted)", holds: "401: no token is good for more than 6 hours", run: func(w *world) error {
		dir := w.dir()
		flags := []string{"--runtime-dir", dir + "/run", "--state-dir", dir + "/state", "--listen", "127.0.0.1:0", "--mount", "none"}
		ahead, err := w.serveAs(how{prefix: []string{"unshare", "--time", "--boottime", "100000", "--fork", "--kill-child=TERM"}}, instance(mainID, ""), flags...)
		if err != nil {
			return err
		}
		defer ahead.stop()
		address, err := ahead.address()
		if err != nil {
			return err
		}
		t, err := w.token(address, "21600")
		if err != nil {
			return err
		}
		ahead.cmd.Process.Kill() // unshare; the daemon ends with it
		if err := until("the daemon has ended", func() bool { _, err := server.say(address, ""); return err != nil }); err != nil {
			return err
		}
		now, err := w.serve(instance(mainID, ""), flags...)
		if err != nil {
			return err
		}
		defer now.stop()
		address, err = now.address()
		return first(err, w.expect(address, get(idPath, t), "401"))
	}},
}

// ttls is an attack with invalid lifetimes.
func ttls(values ...string) func(*world) error {
	return func(w *world) error {
		for _, v := range values {
			if err := w.expect(door, putToken(v), "400"); err != nil {
				return err
			}
		}
		return first(w.expect(door, putToken("1"), "200"), w.expect(door, putToken("21600"), "200"))
	}
}

// paths are all below /latest, with a token.
func (w *world) paths(address string) ([]string, error) {
	t, err := w.token(address, "60")
	if err != nil {
		return nil, err
	}
	var found []string
	var walk func(dir string) error
	walk = func(dir string) error {
		if len(found) > 500 {
			return nil
		}
		found = append(found, dir)
		answer, err := server.say(address, strings.Replace(get(dir, t), "\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1))
		if err != nil {
			return err
		}
		_, body, _ := strings.Cut(answer, "\r\n\r\n")
		for name := range strings.SplitSeq(body, "\n") {
			if sub, ok := strings.CutSuffix(name, "/"); ok {
				if err := walk(dir + sub + "/"); err != nil {
					return err
				}
			} else if name != "" {
				found = append(found, dir+name)
			}
		}
		return nil
	}
	err = first(walk("/latest/meta-data/"), walk("/latest/dynamic/"))
	return append(found, "/", "/latest", "/latest/", "/2009-04-04/", "/latest/user-data"), err
}
