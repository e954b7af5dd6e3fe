# The root file system: the disk below, what changes above it, and the hand-over to its own init.

LOWER=/run/imgfactory/lower
COW=/run/imgfactory/cow

wait_for_disk() {
  within "$DISK_WAIT" wait_for_device "$1" || fail "imgfactory.disk=$1: no such disk" "one of these: $(devices)"
  disk=$device
}

mount_root() {
  mkdir -p "$LOWER" "$COW"
  # Debian's kernels serve ext2 by their driver for ext4.
  mount -t ext2 -o ro "$disk" "$LOWER" 2>/dev/null || mount -t ext4 -o ro "$disk" "$LOWER" ||
    fail "the root file system on $disk can't be mounted; \`dmesg | tail\` has the reason" "the newest image of the boot medium"
  if [ "$opt_cow" = tmpfs ]; then
    mount -t tmpfs -o "mode=0755,size=$COW_SHARE" cow "$COW"
    changes=$COW
  else
    mount_disk "cow=$opt_cow" "$opt_cow" "$COW"
    mount -o remount,suid,dev "$COW"
    changes=$COW/imgfactory/$NAME-$IMAGE
  fi
  mkdir -p "$changes/upper" "$changes/work"
  mount -t overlay -o "lowerdir=$LOWER,upperdir=$changes/upper,workdir=$changes/work" root /sysroot ||
    fail "changes can't be kept on ${opt_cow}" "cow=tmpfs, or a partition with ext4"
}

hand_over() {
  [ -x "/sysroot$opt_init" ] || [ -L "/sysroot$opt_init" ] ||
    fail "the root file system has no $opt_init" "the package systemd-sysv in the recipe, or init=PATH"
  adopt_names
  give_time
  say "starting $opt_init of $NAME's $IMAGE"
  for dir in dev proc sys run; do
    mkdir -p "/sysroot/$dir"
    mount --move "/$dir" "/sysroot/$dir" || fail "/$dir can't be moved to the new root" ""
  done
  trap - EXIT
  # By its path: the shell finds nothing in itself without /proc.
  exec /bin/busybox switch_root -c /dev/console /sysroot "$opt_init"
}

# The system resolves names as the miniroot did, also after a new lease, unless it has a resolver of its own.
adopt_names() {
  [ -e "$CLIENT/etc/resolv.conf" ] && [ ! -L /sysroot/etc/resolv.conf ] &&
    ln -sf "$CLIENT/etc/resolv.conf" /sysroot/etc/resolv.conf
  [ -z "$opt_ip_hostname" ] || echo "$opt_ip_hostname" >/sysroot/etc/hostname
}

# What has 90 seconds to start by systemd's default, device units too, may take as long as the network does: a service that
# is given up at boot, a login on a console, say, does not come later.
give_time() {
  mkdir -p /run/systemd/system.conf.d
  printf '[Manager]\nDefaultTimeoutStartSec=10min\nDefaultDeviceTimeoutSec=10min\n' \
    >/run/systemd/system.conf.d/50-imgfactory.conf
}
