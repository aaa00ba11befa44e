package stress

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readerEnv = "IMDSFS_STRESS_READER"
	heldMost  = 64  // descriptors that the holder keeps
	saidMost  = 10  // faults that a reader reports in words
	chunk     = 999 // bytes of one read(2), so that most values take several
)

// roles are the ways to read, each in a process of its own.
var roles = map[string]func(*reader){
	"open": (*reader).open, "held": (*reader).hold, "list": (*reader).list,
}

// Main makes this program a reader if [Run] started it as one. Then it does not return.
func Main() {
	role := os.Getenv(readerEnv)
	if role == "" {
		return
	}
	if err := read(role, os.Args[1:]); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

func read(role string, args []string) error {
	if len(args) != 4 {
		return fmt.Errorf("%d arguments", len(args))
	}
	number, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	pause, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	b, err := openBoard(args[1], os.O_RDWR)
	if err != nil {
		return err
	}
	r := &reader{dir: args[0], file: filepath.Join(args[0], "value"), board: b, tally: &b.readers[number]}
	step := roles[role]
	if step == nil {
		return fmt.Errorf("no reader is called %q", role)
	}
	for !b.stop.Load() {
		begun := time.Now()
		step(r)
		r.tally.rounds.Add(1)
		r.tally.longest.Store(max(r.tally.longest.Load(), int64(time.Since(begun))))
		time.Sleep(pause)
	}
	return nil
}

// A reader uses plain system calls, so that no library hides or repeats one.
type reader struct {
	dir, file string
	board     *board
	tally     *tally
	seen      int64 // the newest version
	said      int
	held      [heldMost]held
	turn      int
}

type held struct {
	fd   int
	text string
}

func (r *reader) fault(n *atomic.Int64, format string, args ...any) {
	n.Add(1)
	if r.said++; r.said <= saidMost {
		fmt.Printf(format+"\n", args...)
	}
}

func (r *reader) saw(version int64) {
	if version > r.seen {
		r.seen = version
		r.tally.versions.Add(1)
	}
}

// openValue opens, reads and checks the value. The descriptor is -1 after an error.
func (r *reader) openValue() (fd int, text string) {
	least := r.board.value.published.Load()
	fd, err := unix.Open(r.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		r.fault(&r.tally.errors, "open: %v", err)
		return -1, ""
	}
	text, err = readAll(fd)
	if err != nil {
		r.fault(&r.tally.errors, "read: %v", err)
		return fd, text
	}
	switch version, whole := versionOf(text); {
	case !whole:
		r.fault(&r.tally.torn, "%d bytes that are no payload: %.20q…", len(text), text)
	case version < least:
		r.fault(&r.tally.stale, "version %d after %d was published", version, least)
	default:
		r.saw(version)
	}
	r.checkSize(fd, text)
	return fd, text
}

func (r *reader) checkSize(fd int, text string) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		r.fault(&r.tally.errors, "fstat: %v", err)
	} else if st.Size != int64(len(text)) {
		r.fault(&r.tally.size, "%d bytes in a file of %d", len(text), st.Size)
	}
}

func readAll(fd int) (string, error) {
	var text []byte
	buf := make([]byte, chunk)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return string(text), err
		}
		text = append(text, buf[:n]...)
	}
}

// open opens, reads and closes the value.
func (r *reader) open() {
	if fd, _ := r.openValue(); fd >= 0 {
		unix.Close(fd)
	}
}

// hold opens one more descriptor, evicts the pages of one that it holds, and reads that again.
func (r *reader) hold() {
	r.turn++
	h := &r.held[r.turn%heldMost]
	if h.fd > 0 {
		unix.Close(h.fd)
		h.fd = 0
	}
	if fd, text := r.openValue(); fd >= 0 {
		*h = held{fd, text}
	}
	h = &r.held[r.turn*7%heldMost]
	if h.fd == 0 {
		return
	}
	if err := unix.Fadvise(h.fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		r.fault(&r.tally.errors, "fadvise: %v", err)
	}
	if _, err := unix.Seek(h.fd, 0, unix.SEEK_SET); err != nil {
		r.fault(&r.tally.errors, "seek: %v", err)
	}
	again, err := readAll(h.fd)
	if err != nil {
		r.fault(&r.tally.errors, "read again: %v", err)
	} else if again != h.text {
		r.fault(&r.tally.held, "a descriptor read %d bytes (%.20q…), then %d (%.20q…)", len(h.text), h.text, len(again), again)
	}
	r.checkSize(h.fd, again)
}

// list does what ls -l does. It also looks up the next name, so that the kernel remembers that the name is absent.
func (r *reader) list() {
	least, leastValue := r.board.names.published.Load(), r.board.value.published.Load()
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		r.fault(&r.tally.errors, "list: %v", err)
		return
	}
	most := r.board.names.started.Load()
	steady, current := 0, 0
	for _, e := range entries {
		switch e.Name()[0] {
		case 'k':
			steady++
		case 'n':
			current++
			version, err := strconv.ParseInt(e.Name()[1:], 10, 64)
			if err != nil || version < least || version > most {
				r.fault(&r.tally.stale, "%s is listed after %d was published and before %d was started", e.Name(), least, most+1)
			}
			r.saw(version)
		}
	}
	// If a listing is read in parts, it may miss a name that is removed meanwhile and one that is added.
	if steady != steadyNames || least == most && current != 1 {
		r.fault(&r.tally.torn, "%d names that are always there, %d that change, from %d to %d", steady, current, least, most)
	}
	for _, e := range entries {
		r.stat(e.Name(), leastValue)
	}
	r.stat(name(r.board.names.started.Load()+1), leastValue)
}

func (r *reader) stat(file string, leastValue int64) {
	var st unix.Stat_t
	leastName := r.board.names.published.Load()
	err := unix.Lstat(filepath.Join(r.dir, file), &st)
	mostName, mostValue := r.board.names.started.Load(), r.board.value.started.Load()
	switch {
	case file[0] == 'n':
		version, _ := strconv.ParseInt(file[1:], 10, 64)
		switch {
		case err == nil && version < leastName:
			r.fault(&r.tally.stale, "%s is there after %d was published", file, leastName)
		case err != nil && version == leastName && version == mostName:
			r.fault(&r.tally.stale, "%s was published: %v", file, err)
		case err != nil && err != unix.ENOENT:
			r.fault(&r.tally.errors, "stat %s: %v", file, err)
		}
	case err != nil:
		r.fault(&r.tally.errors, "stat %s: %v", file, err)
	case file == "value":
		for v := leastValue; v <= mostValue; v++ {
			if st.Size == int64(len(Payload(v))) {
				return
			}
		}
		r.fault(&r.tally.size, "the value has %d bytes, which no version from %d to %d has", st.Size, leastValue, mostValue)
	}
}
