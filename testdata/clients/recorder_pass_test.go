package clients

import (
	"bytes"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
)

// The recorder may not make a client and the daemon get on better than they do.
func TestRecorderPassesEveryByte(t *testing.T) {
	const (
		asked = "PUT /latest/api/token HTTP/1.1\r\nhost:x\r\nX-AWS-EC2-metadata-token-ttl-seconds:  60\r\ncontent-length: 4\r\n\r\nbody" +
			"HEAD //latest/%2e HTTP/1.1\r\nHost: x\r\nx-aws-ec2-metadata-token:\r\n\r\n"
		answered = "HTTP/1.1 200 Fine\r\nserver:EC2ws\r\nContent-Length:  5\r\n\r\ntoken" +
			"HTTP/1.1 401 Unauthorized\r\nContent-Length: 7\r\n\r\n"
	)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	arrived := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close() // as the daemon does when it has had enough
		got := make([]byte, len(asked))
		n, _ := io.ReadFull(conn, got)
		arrived <- string(got[:n])
		io.WriteString(conn, answered)
	}()

	near, far := net.Pipe()
	var log bytes.Buffer
	passed := make(chan error, 1)
	go func() { passed <- pass(far, listener.Addr().String(), &log) }()
	go io.WriteString(near, asked)
	got, err := io.ReadAll(near)
	if err != nil || string(got) != answered {
		t.Errorf("the client got %q, %v\nwant %q", got, err, answered)
	}
	if got := <-arrived; got != asked {
		t.Errorf("the daemon got %q\nwant %q", got, asked)
	}
	if err := <-passed; err != nil {
		t.Error(err)
	}

	var recorded []exchange
	for line := range strings.Lines(log.String()) {
		e, err := parseExchange(line)
		if err != nil {
			t.Fatal(err)
		}
		recorded = append(recorded, e)
	}
	want := []exchange{
		{method: "PUT", target: "/latest/api/token", ttl: "60", status: 200},
		{method: "HEAD", target: "//latest/%2e", token: true, status: 401},
	}
	if !reflect.DeepEqual(recorded, want) {
		t.Errorf("recorded %+v\nwant %+v", recorded, want)
	}
}
