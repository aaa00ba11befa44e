package mount

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/cmd/imdsfs/daemon"
	"github.com/imdsfs/imdsfs/source/problem"
)

// Mount options that are flags of imdsfs serve: with a value, with a path as their value, without a value.
var (
	valueOptions  = []string{"listen", "allow-from", "host", "metrics", "metrics-allow-from", "log-level", "log-format", "user", "watchdog"}
	pathOptions   = []string{"runtime-dir", "state-dir", "admin"}
	switchOptions = []string{"keep", "add-addresses", "force-addresses"}
)

// logOption is not a flag of serve: it chooses the daemon's standard error.
const logOption = "log"

// Options returns the names of all options that are flags of imdsfs serve.
func Options() []string { return slices.Concat(valueOptions, pathOptions, switchOptions) }

// Generic options, mount(8) and fuse(4). genericOptions ask for what imdsfs does anyway, or concern other programs;
// contraryOptions ask for what imdsfs never does.
var (
	genericOptions = []string{
		"defaults", "ro", "rw", "nosuid", "nodev", "noexec", "auto", "noauto", "nofail", "_netdev",
		"user", "users", "nouser", "owner", "group", "allow_other", "default_permissions",
		"async", "sync", "dirsync", "atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime",
		"strictatime", "nostrictatime", "lazytime", "nolazytime", "iversion", "noiversion", "silent", "loud",
		"mand", "nomand", "symfollow", "nosymfollow",
	}
	contraryOptions = []string{"suid", "dev", "exec"}
)

// flags are what mount options mean.
type flags struct {
	serve []string // flags of imdsfs serve
	log   string   // path of log=, "" without
}

// flags parses the mount options.
func (r *Request) flags() (f flags, err error) {
	for option := range strings.SplitSeq(strings.Join(r.Options, ","), ",") {
		name, value, valued := strings.Cut(option, "=")
		isPath := name == logOption || slices.Contains(pathOptions, name)
		switch {
		case option == "", name == "comment", strings.HasPrefix(name, "x-"), strings.HasPrefix(name, "X-"),
			!valued && slices.Contains(genericOptions, name):
		case !valued && slices.Contains(contraryOptions, name):
			r.note("option %s is ignored: the mount is always nosuid,nodev,noexec", name)
		case !valued && slices.Contains(switchOptions, name):
			f.serve = append(f.serve, "--"+name)
		case (isPath || slices.Contains(valueOptions, name)) && value == "":
			return flags{}, problem.Usage("for example "+name+"=…", fmt.Errorf("mount option %q lacks a value", option))
		case isPath && !filepath.IsAbs(value) && option != "admin="+daemon.None:
			return flags{}, problem.Usage("start it with /", fmt.Errorf("mount option %q: not an absolute path", option))
		case name == logOption:
			f.log = value
		case isPath, slices.Contains(valueOptions, name):
			f.serve = append(f.serve, "--"+name, value)
		case slices.Contains(switchOptions, name), slices.Contains(genericOptions, name):
			return flags{}, problem.Usage("write "+name+" alone", fmt.Errorf("mount option %q takes no value", option))
		case name == "remount":
			return flags{}, problem.Usage("unmount it, and mount it again", errors.New("imdsfs cannot be remounted: there is nothing to change"))
		case r.Sloppy:
			r.note("option %s is ignored: it is unknown", name)
		default:
			return flags{}, problem.Usage(hintForOption(name), fmt.Errorf("unknown mount option %q", option))
		}
	}
	return f, nil
}

// hintForOption suggests the option whose name is nearest to an unknown one, or lists all.
func hintForOption(name string) string {
	ours := append(Options(), logOption)
	if near := problem.Nearest(name, slices.Concat(ours, genericOptions)); near != "" {
		return "did you mean " + near + "?"
	}
	slices.Sort(ours)
	return "the options here are " + strings.Join(ours, ", ") + "; mount -s ignores others"
}
