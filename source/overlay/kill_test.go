package overlay

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/imdsfs/imdsfs/source"
	"github.com/imdsfs/imdsfs/source/build"
	"github.com/imdsfs/imdsfs/source/ec2"
	"github.com/imdsfs/imdsfs/testdata/scratch"
)

const (
	kills      = 300
	victimEnv  = "IMDSFS_TEST_OVERLAY_VICTIM" // the state directory of a child that is to be killed
	hopOption  = ec2.OptionHopLimit
	valuePath  = "meta-data/ami-launch-index"
	sizedPath  = "meta-data/spot/termination-time"
	killWindow = 3 * time.Millisecond
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimEnv); dir != "" {
		fmt.Fprintln(os.Stderr, changeForever(dir))
		os.Exit(1)
	}
	os.Exit(scratch.Run(m))
}

// changeForever goes on counting where the overlay is, in three entries at once, and prints each number
// when its change is said to be kept. The file's size changes from one to the next.
func changeForever(dir string) error {
	o, err := Open(dir)
	if err != nil {
		return err
	}
	n, err := counted(o)
	if err != nil {
		return err
	}
	for {
		n++
		text := []byte(strconv.Itoa(n))
		by := Stamp{Time: time.Unix(int64(n), 0), By: "uid 0"}
		d := o.Draft("")
		d.Set(Options, hopOption, []byte(strconv.Itoa(n%64+1)), by)
		d.Set(Tags, "Count", text, by)
		d.Set(Values, valuePath, text, by)
		d.Set(Values, sizedPath, []byte(strings.Repeat("x", n*7919%20000)), by)
		if err := d.Commit(); err != nil {
			return err
		}
		fmt.Println(n)
	}
}

// counted is the number that an overlay holds; all of its entries have to agree on it.
func counted(o *Overlay) (int, error) {
	f, err := o.Load(context.Background())
	if err != nil {
		return 0, err
	}
	tag, ok := f.Tags["Count"]
	if !ok {
		if len(f.Options)+len(f.Leaves) > 0 {
			return 0, fmt.Errorf("half a change: %q %q", texts(f.Options), texts(f.Leaves))
		}
		return 0, nil
	}
	n, err := strconv.Atoi(string(tag.Bytes))
	if err != nil {
		return 0, err
	}
	option, value, size := string(f.Options[hopOption].Bytes), string(f.Leaves[valuePath].Bytes), len(f.Leaves[sizedPath].Bytes)
	if option != strconv.Itoa(n%64+1) || value != strconv.Itoa(n) || size != n*7919%20000 {
		return 0, fmt.Errorf("a mixture: tag %d, option %s, value %s, %d bytes", n, option, value, size)
	}
	return n, nil
}

// A process that is killed while it makes changes leaves the last that was said to be kept, or the one
// it was at: never an older one, a part, or nothing.
func TestSIGKILLLeavesTheOldOrTheNew(t *testing.T) {
	if _, err := os.Stat("/dev/shm"); err == nil {
		t.Setenv("TMPDIR", "/dev/shm") // fsync costs nothing there, and a kill cannot tell
	}
	dir := t.TempDir()
	last, amid := 0, 0
	for i := range kills {
		kept, err := runVictim(dir, 1+rand.IntN(3), rand.N(killWindow))
		if err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		o, err := Open(dir)
		if err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		found, err := counted(o)
		if err != nil {
			t.Fatalf("kill %d: %v", i, err)
		}
		if kept <= last || found != kept && found != kept+1 {
			t.Fatalf("kill %d: %d was there, %d was said to be kept, %d is there", i, last, kept, found)
		}
		checkRunning(t, o, found)
		if _, err := os.Lstat(filepath.Join(dir, "."+fileName+".new")); err == nil || found > kept {
			amid++
		}
		last = found
	}
	if amid == 0 {
		t.Errorf("not one of %d kills came amid a change: they were not at random moments", kills)
	}
	d := open(t, dir).Draft("")
	commit(t, d)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("%d files are left, of which one is wanted (%v)", len(entries), err)
	}
	t.Logf("%d changes, %d kills, %d of them amid a change", last, kills, amid)
}

// runVictim kills a child some time after it said that it has kept so many changes, and returns the last
// of which it said so.
func runVictim(dir string, changes int, after time.Duration) (kept int, err error) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victimEnv+"="+dir)
	var failure strings.Builder
	cmd.Stderr = &failure
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	lines := bufio.NewScanner(out)
	for seen := 1; lines.Scan(); seen++ { // to the end: what was printed before the kill counts
		if kept, err = strconv.Atoi(lines.Text()); err != nil {
			return 0, err
		}
		if seen == changes {
			time.AfterFunc(after, func() { cmd.Process.Kill() })
		}
	}
	cmd.Wait()
	if failure.Len() > 0 {
		return 0, fmt.Errorf("the child failed: %s", failure.String())
	}
	return kept, lines.Err()
}

// checkRunning wants a daemon that starts now to run with what is stored.
func checkRunning(t *testing.T, o *Overlay, n int) {
	t.Helper()
	store := source.NewStore(func() build.Env { return build.Env{Now: time.Now()} }, o)
	if _, err := store.Reload(context.Background()); err != nil {
		t.Fatal(err)
	}
	if got, want := store.Snapshot().Options().HopLimit, n%64+1; got != want {
		t.Fatalf("runs with hop limit %d, and %d is stored", got, want)
	}
	v, ok := store.Snapshot().Find("/latest/" + valuePath)
	if !ok || string(v.Bytes()) != strconv.Itoa(n) {
		t.Fatalf("runs with another value than the %d that is stored", n)
	}
}
