package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/imdsfs/imdsfs/source/problem"
)

// The mount options that are flags of serve: with a value, with a path for one, without.
var (
	valueOptions  = []string{"listen", "allow-from", "host", "metrics", "metrics-allow-from", "log-level", "log-format", "user", "watchdog"}
	pathOptions   = []string{"runtime-dir", "state-dir", "admin"}
	switchOptions = []string{"keep", "add-addresses", "force-addresses"}
)

const logOption = "log"

// Generic options, mount(8) and fuse(4): those that say what is done anyway or are for others, and those
// that ask for what is never done.
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

// flags are the mount options as flags of serve. log= is none, and is noted.
func (m *mountRequest) flags() ([]string, error) {
	var flags []string
	for option := range strings.SplitSeq(strings.Join(m.options, ","), ",") {
		name, value, valued := strings.Cut(option, "=")
		isPath := name == logOption || slices.Contains(pathOptions, name)
		switch {
		case option == "", name == "comment", strings.HasPrefix(name, "x-"), strings.HasPrefix(name, "X-"),
			!valued && slices.Contains(genericOptions, name):
		case !valued && slices.Contains(contraryOptions, name):
			m.note("option %s is ignored: the mount is always nosuid,nodev,noexec", name)
		case !valued && slices.Contains(switchOptions, name):
			flags = append(flags, "--"+name)
		case (isPath || slices.Contains(valueOptions, name)) && value == "":
			return nil, problem.Usage("for example "+name+"=…", fmt.Errorf("mount option %q lacks a value", option))
		case isPath && !filepath.IsAbs(value) && option != "admin="+none:
			return nil, problem.Usage("start it with /", fmt.Errorf("mount option %q: not an absolute path", option))
		case name == logOption:
			m.log = value
		case isPath, slices.Contains(valueOptions, name):
			flags = append(flags, "--"+name, value)
		case slices.Contains(switchOptions, name), slices.Contains(genericOptions, name):
			return nil, problem.Usage("write "+name+" alone", fmt.Errorf("mount option %q takes no value", option))
		case name == "remount":
			return nil, problem.Usage("unmount it, and mount it again", errors.New("an imdsfs cannot be remounted: there is nothing to change"))
		case m.sloppy:
			m.note("option %s is ignored: it is not known", name)
		default:
			return nil, problem.Usage(hintForOption(name), fmt.Errorf("unknown mount option %q", option))
		}
	}
	return flags, nil
}

// hintForOption names the option that is meant by an unknown one, or what comes near to it.
func hintForOption(name string) string {
	ours := slices.Concat(valueOptions, pathOptions, switchOptions, []string{logOption})
	if near := problem.Nearest(name, slices.Concat(ours, genericOptions)); near != "" {
		return "did you mean " + near + "?"
	}
	slices.Sort(ours)
	return "the options here are " + strings.Join(ours, ", ") + "; mount -s ignores others"
}
