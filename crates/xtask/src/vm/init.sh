#!/bin/busybox sh
# The first program of the virtual machine: loads what the root needs and goes there.
b=/bin/busybox
fail() {
    echo "init: $*"
    $b poweroff -f
}
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs dev /dev
while read -r module; do
    $b insmod "/modules/$module" || fail "cannot load $module"
done < /modules/order

share=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "ro,cache=loose,$share" host /host || fail "cannot mount the host's root"
# Everything that is written in the machine stays in its memory.
$b mount -t tmpfs -o size=75% memory /memory || fail "cannot mount a tmpfs"
$b mkdir /memory/upper /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work overlay /root ||
    fail "cannot put a layer over the host's root"
$b mkdir -p /root/run/weir-vm
$b mount -t 9p -o "rw,cache=none,$share" run /root/run/weir-vm || fail "cannot mount the results"
for directory in proc sys dev; do
    $b mount -o move "/$directory" "/root/$directory" || fail "cannot move /$directory"
done
exec $b switch_root /root /bin/sh /run/weir-vm/guest.sh
