package mountpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/imdsfs/imdsfs/fs/patient"
)

const (
	// probeLimit is how long the look may take on an idle machine. On a busy one it is busyFactor times what the child took
	// to start, which is no less work.
	probeLimit = time.Second
	busyFactor = 20 // to what is measured on a busy machine
	// startLimit bounds the start of the child, and the look on a busy machine.
	startLimit = 20 * time.Second
)

// Alive returns nil if the file system on path answers statfs(2), else [ErrHangs], the [syscall.Errno] that it answers, or
// why no child could look.
func Alive(path string) error {
	_, err := probe(probeAlive, path)
	return err
}

// walkTo has a child walk to the directory above a mount point. It returns that directory, O_PATH, and what the child saw
// at the mount point. The error is one of probe's, or [*safepath.Error].
func walkTo(dir string, users []int) (*walkResult, *os.File, error) {
	request, err := json.Marshal(walkRequest{dir, users})
	if err != nil {
		return nil, nil, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	defer unix.Close(pair[0])
	childEnd := os.NewFile(uintptr(pair[1]), "probe")
	text, err := probe(probeWalk, string(request), childEnd)
	childEnd.Close()
	if err != nil {
		return nil, nil, err
	}
	r := &walkResult{}
	if err := json.Unmarshal([]byte(text), r); err != nil {
		return nil, nil, childFailed(err)
	}
	if r.Refused != nil {
		return nil, nil, r.Refused
	}
	fd, err := receive(pair[0])
	if err != nil {
		return nil, nil, childFailed(err)
	}
	return r, os.NewFile(uintptr(fd), r.Parent), nil
}

func childFailed(err error) error {
	return fmt.Errorf("the child that looks at a path failed: %w", err)
}

// probe looks at a path in a child process. The error is ErrHangs, a [syscall.Errno] of the child, or a failure to run
// one. A child that hangs is killed. If even that does not end it, it is left behind. An answer that it gave by then counts,
// however late we come to see it.
//
// The child inherits a file as descriptor 3, if one is given.
func probe(what question, path string, inherit ...*os.File) (string, error) {
	if inChild() {
		return "", errors.New("this program mounts without calling fs.ChildMain first")
	}
	out := probeOutput{begun: make(chan struct{})}
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{probeName, string(what), path}, Dir: "/", Env: []string{}, Stdout: &out, ExtraFiles: inherit}
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("start a child to look at %s: %w", path, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	done := make(chan struct{})
	defer close(done)
	limit := patient.After(startLimit, done)
	begun := out.begun
	for {
		select {
		case err := <-ended:
			return parseAnswer(out.text.Bytes(), err)
		case <-begun:
			begun = nil
			limit = patient.After(lookLimit(time.Since(start)), done)
		case <-limit:
			cmd.Process.Kill()
			select {
			case err := <-ended:
				if err == nil {
					return parseAnswer(out.text.Bytes(), nil)
				}
			case <-time.After(probeLimit):
			}
			return "", ErrHangs
		}
	}
}

// lookLimit is how long the look may take of a child that took so long to start.
func lookLimit(started time.Duration) time.Duration {
	return min(max(probeLimit, busyFactor*started), startLimit)
}

// A probeOutput is what a child writes. It may be read when the child has ended.
type probeOutput struct {
	text  bytes.Buffer
	begun chan struct{} // closed at the first byte
}

func (o *probeOutput) Write(p []byte) (int, error) {
	if o.text.Len() == 0 {
		close(o.begun)
	}
	return o.text.Write(p)
}

// parseAnswer reads what a child wrote that ended with err.
func parseAnswer(out []byte, err error) (string, error) {
	out, ok := bytes.CutPrefix(out, []byte(probeBegins))
	if !ok {
		return "", childFailed(errors.Join(err, errors.New("it is another program")))
	}
	head, text, ok := bytes.Cut(out, []byte("\n"))
	var errno int
	if _, scanErr := fmt.Sscanf(string(head), "%d", &errno); err != nil || scanErr != nil || !ok {
		return "", childFailed(errors.Join(err, scanErr))
	}
	if errno != 0 {
		return "", syscall.Errno(errno)
	}
	return string(text), nil
}
