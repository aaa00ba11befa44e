#!/bin/sh
# on-machine.sh ec2|other COMMAND...
#
# Runs a command where the machine looks like a Xen instance of EC2, or like none. Programs look for that
# in /sys, which is replaced: run this in a mount namespace that may be thrown away. Facter looks at process
# 1 too, to know containers.
set -eu
machine=$1
shift
mount -t tmpfs imdsfs-clients /sys
mkdir -p /sys/class/dmi/id /sys/hypervisor
cd /sys/class/dmi/id
case $machine in
ec2)
	echo ec2f0e1d-2c3b-4a59-8877-665544332211 >/sys/hypervisor/uuid
	echo ec2f0e1d-2c3b-4a59-8877-665544332211 | tee product_uuid >product_serial
	echo 'Amazon EC2' | tee bios_vendor >sys_vendor
	echo 4.11.amazon >bios_version
	echo c5.xlarge >product_name
	;;
other)
	rmdir /sys/hypervisor
	echo 0c2f0e1d-2c3b-4a59-8877-665544332211 >product_uuid
	echo none | tee product_serial bios_vendor sys_vendor bios_version >product_name
	;;
esac
echo none >chassis_asset_tag
cd /
exec unshare --pid --fork --kill-child --mount-proc "$@"
