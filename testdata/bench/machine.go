package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describe describes the machine on which the numbers were measured.
func describe() string {
	var u unix.Utsname
	var info unix.Sysinfo_t
	unix.Uname(&u)
	unix.Sysinfo(&info)
	load, _ := os.ReadFile("/proc/loadavg")
	return fmt.Sprintf("%s: Linux %s, %s, %s, go-fuse %s; %d cores (%s), %.0f GiB of memory; load before %s.",
		time.Now().UTC().Format(time.DateOnly), unix.ByteSliceToString(u.Release[:]), runtime.GOARCH, runtime.Version(), version("github.com/hanwen/go-fuse/v2"),
		runtime.NumCPU(), processor(), float64(info.Totalram)*float64(info.Unit)/(1<<30), strings.Fields(string(load) + " ?")[0])
}

// version of a module that this program is built from.
func version(module string) string {
	build, _ := debug.ReadBuildInfo()
	for _, dep := range build.Deps {
		if dep.Path == module {
			return dep.Version
		}
	}
	return "?"
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "processor unknown"
}

// fileSystem names the type of the file system that holds a path, from the kernel's list of mounts.
func fileSystem(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "disk"
	}
	device := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) > 2 && f[2] == device {
			return strings.Fields(after)[0]
		}
	}
	return "disk"
}

// undisturbed repeats something until the kernel has not dropped its caches meanwhile. Other tests on the machine may make
// it do so, and then the measurement would include the time and the requests to fill the caches.
func undisturbed(do func() error) error {
	for begin := time.Now(); ; {
		before := cacheDrops()
		if err := do(); err != nil || cacheDrops() == before {
			return err
		}
		if time.Since(begin) > 2*time.Minute {
			return errors.New("somebody writes to /proc/sys/vm/drop_caches all the time: nothing can be measured")
		}
	}
}

// cacheDrops counts the writes to /proc/sys/vm/drop_caches since the machine started.
func cacheDrops() string {
	text, _ := os.ReadFile("/proc/vmstat")
	var drops string
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "drop_pagecache") || strings.HasPrefix(line, "drop_slab") {
			drops += line
		}
	}
	return drops
}
