# Runs as the machine's first process, on the root that init made. $modules, $console and the
# job come from the directory that is shared with the host.
cd /run/weir-vm
. ./settings.sh
PATH=/usr/sbin:/usr/bin:/sbin:/bin
export PATH

mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount --bind "$modules" /lib/modules
# What udev would make.
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
# The kernel calls this for what is asked for by name: link types, expressions of nftables.
echo "$(command -v modprobe)" > /proc/sys/kernel/modprobe
modprobe tun
# Its sysctls come with it, also for a program that looks at them while another one has it loaded.
modprobe nf_conntrack
echo weir-vm > /proc/sys/kernel/hostname
ip link set lo up

: > ready
setsid --ctty --wait sh ./job.sh < /dev/hvc0 > /dev/hvc0 2>&1
echo $? > status.part
mv status.part status
sync
echo o > /proc/sysrq-trigger
# The first process must not end before the machine does.
while :; do :; done
