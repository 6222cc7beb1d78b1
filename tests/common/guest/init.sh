#!/bin/sh
# The first process of the guest kernel. It sees the host's files, read-only, below a file system in memory that takes
# whatever is written. `crossing` is a directory of the host: it holds `arguments`, a command line with one word a line,
# and is given `status`, the exit status of that command, or `failure`, a sentence.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

power_off() {
	sync
	echo o > /proc/sysrq-trigger
	sleep 60
}

# The console is the second best place: it is the only one until `crossing` is mounted.
give_up() {
	echo "$*"
	[ -z "$crossed" ] || echo "$*" > /run/crossing/failure
	power_off
}

mount -t proc proc /proc
mount -t tmpfs memory /run
modules=/usr/lib/uml/modules/$(uname -r)
[ -d "$modules" ] || give_up "no $modules: the packages of the guest kernel and its modules do not fit together"

# Not every host has /lib/modules, and none may be written to.
insmod "$modules/kernel/fs/overlayfs/overlay.ko" || give_up "the guest kernel has no overlayfs"
mkdir /run/written /run/work /run/root
mount -t overlay root -o lowerdir=/,upperdir=/run/written,workdir=/run/work /run/root || give_up "cannot mount overlayfs"
cd /run/root || give_up "cannot enter the new root"
mkdir host
mount --move /proc proc
mount --move /dev dev
pivot_root . host

mount -t sysfs sys /sys
mount -t tmpfs memory /run
mkdir /run/crossing
mount -t hostfs crossing -o "$crossing" /run/crossing || give_up "cannot mount $crossing of the host"
crossed=yes

mkdir -p "/lib/modules/$(uname -r)"
mount --bind "$modules" "/lib/modules/$(uname -r)"
while read -r module; do
	modprobe "$module" || give_up "the guest kernel has no module $module"
done <<-MODULES
	@MODULES@
MODULES

# Rejections arrive as ICMP. Both limits are shared by all namespaces, so that the lab cannot lift them in its own, and
# Linux 6.1 takes icmp_ratelimit=0 for one error a second where the error is that there is no route.
sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=10000 net.ipv4.route.error_cost=0
ip link set lo up
# For 20,000 connections through the userspace mode; 4,096 is what the first process gets.
ulimit -Hn 131072

while read -r word; do
	set -- "$@" "$word"
done < /run/crossing/arguments
"$@" < /dev/null
echo $? > /run/crossing/status
power_off
