package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

const (
	theMount = "/run/metadata"
	idFile   = theMount + idPath
	secret   = theMount + credentials
	userData = theMount + "/latest/user-data"
)

var mountAttacks = []attack{
	lines("the credentials", "cat, cp, head, mmap, in every version of the tree", "permission denied; root reads them", mallory,
		"cat "+secret, "cp "+secret+" /tmp/x", "head -c 1 "+secret, "dd if="+secret+" count=1", "od "+secret, "cat "+theMount+"/2021-03-23/meta-data/iam/security-credentials/role", "cat "+theMount+"/*/meta-data/iam/security-credentials/role", actor+" act map "+secret),
	lines("user-data", "the same", "permission denied", mallory, "cat "+userData, "cat "+theMount+"/2009-04-04/user-data", "cat "+theMount+"/*/user-data", "grep -r forbidden "+theMount+"/latest/user-data"),
	{name: "secrets through searches", by: user, tries: "`grep -r`, `find`, `tar`, `rsync`-like copies of the whole mount", holds: "what is for everybody, and no secret", run: func(w *world) error {
		for _, line := range []string{"grep -rs . " + theMount, "tar -cf - " + theMount + " 2>/dev/null", "find " + theMount + " -type f -exec cat {} + 2>/dev/null"} {
			out, _ := w.sh(mallory, line)
			if !strings.Contains(out, mainID) {
				return fmt.Errorf("control: %s: %.300q", line, out)
			}
			if err := w.secretIn(out); err != nil {
				return fmt.Errorf("%s: %w", line, err)
			}
		}
		return nil
	}},
	lines("root in a user namespace", "`unshare -Ur` and then the secrets, chmod, chown", "permission denied: the inode's owner is not mapped", mallory,
		"unshare -Ur cat "+secret, "unshare -Ur cat "+userData, "unshare -Ur chmod 444 "+secret, "unshare -Ur chown 0 "+secret, "unshare -Urm --propagation private sh -c 'mount --bind "+theMount+" /tmp && cat /tmp"+credentials+"'",
		"unshare -Urpf --mount-proc cat /proc/1/root"+secret),
	lines("writing", "open for writing, append, truncate, `cp`, `tee`", "read-only", mallory, writes(idFile)...),
	lines("root writes in a container", "the same as root with all capabilities, through a bind mount", "read-only: no container changes what others read", 0, writes(idFile)...),
	lines("making names", "create, mkdir, mknod, symlink, link, rename, unlink", "read-only", mallory, makes(theMount)...),
	lines("root makes names in a container", "the same as root", "read-only", 0, makes(theMount)...),
	lines("attributes", "chmod, chown, touch, setfattr as root", "refused", 0,
		"chmod 777 "+secret, "chown "+strconv.Itoa(mallory)+" "+secret, "touch "+idFile, "chmod 777 "+theMount, actor+" act setxattr "+idFile, actor+" act setxattr "+theMount),
	lines("extended attributes", "get, list and set them as a user", "not supported", mallory, actor+" act getxattr "+secret, actor+" act setxattr "+idFile),
	lines("writing to mapped pages", "a writable shared mapping of a file that is open for reading, `/proc/self/mem`", "permission denied", mallory, actor+" act mapwrite "+idFile, "exec 3<"+idFile+"; echo x >/proc/self/fd/3", "exec 3<"+idFile+"; echo x >>/dev/fd/3"),
	lines("remounting and unmounting", "umount, fusermount3 -u, remount rw, in and outside of a user namespace", "refused", mallory,
		"umount "+theMount, "umount -l "+theMount, "fusermount3 -u "+theMount, "fusermount3 -uz "+theMount, "mount -o remount,rw "+theMount, "unshare -Urm mount -o remount,rw,bind "+theMount, "unshare -Urm mount -o remount,suid,exec,bind "+theMount, "unshare -Urm umount "+theMount),
	{name: "a mount over it", by: user, tries: "`unshare -Urm mount --bind` over the mount and over files in it", holds: "only his own namespace sees it", run: func(w *world) error {
		const fake = home + "/fake"
		if err := w.allowed(mallory, "mkdir -p "+fake+"/latest && echo fake >"+fake+"/x"); err != nil {
			return err
		}
		out, err := w.sh(mallory, "unshare -Urm sh -c 'mount --bind "+fake+" "+theMount+" && cat "+theMount+"/x; mount --bind "+fake+"/x "+idFile+"; exec sleep 0'")
		if err != nil && !strings.Contains(out, "fake") && !strings.Contains(out, "ermitted") && !strings.Contains(out, "denied") {
			return fmt.Errorf("%w: %s", err, out)
		}
		if text, _ := w.as(victim, "cat", idFile); text != mainID {
			return fmt.Errorf("another user reads %q", text)
		}
		return nil
	}},
	lines("programs and devices", "execute a file, follow a device or a setuid bit", "noexec, nodev, nosuid", mallory, idFile, "sh -c '. "+userData+"'", "exec "+theMount+"/latest/meta-data/instance-type"),
	{name: "flags of the mount", by: user, tries: "looking for a mount that is writable, or allows programs, devices or setuid", holds: "`ro,nosuid,nodev,noexec` on every mount, `default_permissions`", run: func(w *world) error {
		text, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return err
		}
		found := 0
		for line := range strings.Lines(string(text)) {
			if !strings.Contains(line, " - fuse.imdsfs ") {
				continue
			}
			found++
			options := strings.Split(strings.Fields(line)[5], ",")
			for _, want := range []string{"ro", "nosuid", "nodev", "noexec"} {
				if !contains(options, want) {
					return fmt.Errorf("no %s: %s", want, line)
				}
			}
			if !strings.Contains(line, "default_permissions") {
				return fmt.Errorf("no default_permissions: %s", line)
			}
		}
		if found < 2 {
			return fmt.Errorf("only %d mounts", found)
		}
		return nil
	}},
	{name: "a file handle out of a bound sub-directory", by: container, tries: "a container's root with CAP_DAC_READ_SEARCH, who has one directory bound: `open_by_handle_at` on node 1 opens the root of the mount", holds: "refused (Linux 6.9 and later; before that `status` says that it is possible)", run: func(w *world) error {
		out, err := w.sh(0, "unshare -m --propagation private sh -c 'mount --bind "+theMount+"/latest/meta-data/placement /mnt && umount -l "+theMount+" && cat /mnt/region && exec "+actor+" act handle /mnt "+strings.TrimPrefix(secret, theMount+"/")+"'")
		if !strings.HasPrefix(out, "eu-west-1") {
			return fmt.Errorf("control: %w: %s", err, out)
		}
		if err == nil {
			return fmt.Errorf("opened: %s", out)
		}
		return w.secretIn(out)
	}},
	lines("file handles of a user", "`open_by_handle_at` on the mount and on guessed nodes, also in a user namespace", "refused", mallory, actor+" act handle "+theMount+" "+strings.TrimPrefix(secret, theMount+"/"), "unshare -Ur "+actor+" act handle "+theMount+" "+strings.TrimPrefix(secret, theMount+"/")),
	{name: "what inode numbers tell", by: user, tries: "the inode number of a secret, over a restart with another key", holds: "another number: it is no hash that a guess could be compared with", slow: true, run: func(w *world) error {
		number := func() (string, error) {
			mount := w.dir() + "/m"
			d, err := w.serve(instance(mainID, ""), "--listen", "none", "--mount", mount)
			if err != nil {
				return "", err
			}
			defer d.stop()
			return w.as(mallory, "stat", "-c", "%i", mount+credentials)
		}
		a, errA := number()
		b, errB := number()
		if err := first(errA, errB); err != nil || a == b {
			return fmt.Errorf("inodes %q and %q, %w", a, b, err)
		}
		return nil
	}},
	{name: "what statfs tells", by: container, tries: "`statfs` in a bound sub-directory", holds: "a constant: no total of what others have, no full disk", run: func(w *world) error {
		out, err := w.as(mallory, "stat", "-f", "-c", "%b %f %c", theMount+"/latest/meta-data/placement")
		if err != nil || strings.TrimSpace(out) != "0 0 0" {
			return fmt.Errorf("blocks and files are %q, want 0 0 0; %w", out, err)
		}
		return nil
	}},
	lines("the kernel's side of the mount", "writing to `/sys/fs/fuse/connections/*/abort`", "permission denied", mallory, "for f in /sys/fs/fuse/connections/*/abort; do echo 1 >$f || exit 1; done", "cat /sys/fs/fuse/connections/*/abort"),
}

func writes(file string) []string {
	return []string{": >" + file, "echo x >>" + file, "truncate -s 0 " + file, "echo x | tee " + file, "cp /etc/hostname " + file, "dd if=/dev/zero of=" + file + " count=1 conv=notrunc", "fallocate -l 1 " + file, "exec 3<>" + file}
}

func makes(dir string) []string {
	return []string{"touch " + dir + "/x", "touch " + dir + "/latest/meta-data/x", "mkdir " + dir + "/x", "mknod " + dir + "/x p", "ln -s /etc/passwd " + dir + "/x", "ln " + idFile + " " + dir + "/x", "ln " + idFile + " /run/x",
		"mv " + dir + "/latest " + dir + "/x", "mv " + idFile + " " + dir + "/x", "rm -f " + idFile, "rmdir " + dir + "/latest/meta-data/placement", "rm -rf " + dir + "/latest"}
}

// lines is an attack with lines of shell, each of which must fail.
func lines(name, tries, holds string, uid int, commands ...string) attack {
	by := user
	if uid == 0 {
		by = container
	}
	return attack{name: name, by: by, tries: tries, holds: holds, run: func(w *world) error {
		return first(w.allowed(uid, "cat "+idFile+" && ls "+theMount+"/latest"), w.refused(uid, commands...))
	}}
}

func contains(all []string, one string) bool {
	for _, s := range all {
		if s == one {
			return true
		}
	}
	return false
}
