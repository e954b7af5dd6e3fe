# Kernel file systems, clock, drivers: what the paper calls AutoConfig.

mount_kernel_file_systems() {
  mount -t proc -o nosuid,nodev,noexec proc /proc
  mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
  mount -t devtmpfs -o mode=0755,nosuid dev /dev
  mount -t tmpfs -o mode=0755,nosuid run /run
  mkdir -p /run/imgfactory
}

# A clock that is before the image was made is wrong: certificates and releases would not be valid yet.
set_clock() {
  [ "$(date +%s)" -lt "$BUILT" ] || return 0
  date -s "@$BUILT" >/dev/null
  say "this machine's clock is before the image was made; it is set to $(date -u '+%Y-%m-%d %H:%M') UTC until something knows better"
}

# Loads the driver of every device that the kernel has found. Drivers find devices behind them: again, until
# nothing new turns up.
load_drivers() {
  seen=
  for pass in 1 2 3 4; do
    found=$(cat /sys/bus/*/devices/*/modalias 2>/dev/null | sort -u)
    [ "$found" != "$seen" ] || break
    seen=$found
    set -f
    # Each line is one alias without spaces. Most have no module here, which is no fault.
    modprobe -abq $found 2>/dev/null
    set +f
  done
}

# What the root file system needs; devices do not ask for it.
load_root_drivers() {
  modprobe -aq loop ext4 overlay fuse af_packet 2>/dev/null
}

# device_of LABEL=x, UUID=x, /dev/x: path of a block device that is there.
device_of() {
  case $1 in
    /dev/*) path=$1 ;;
    *) path=$(findfs "$1" 2>/dev/null) || return 1 ;;
  esac
  [ -b "$path" ] && echo "$path"
}

# USB disks take a while to be found.
wait_for_device() {
  load_drivers
  device=$(device_of "$1")
}

# The disks and partitions there are: for messages.
devices() {
  list=
  for path in /sys/class/block/*; do
    name=${path##*/}
    case $name in loop* | ram* | zram* | fd* | sr* | nbd*) ;; *) [ ! -b "/dev/$name" ] || list="$list${list:+, }/dev/$name" ;; esac
  done
  echo "${list:-none}"
}
