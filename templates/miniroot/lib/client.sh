# The client, imgfetch: it serves the virtual disk for as long as the system runs, so it lives in a directory of
# its own that moves to the new root with /run. Its name begins with @: systemd's way to say that a process
# serves the root file system and is not to be ended at shutdown (systemd.io/ROOT_STORAGE_DAEMONS).

# What the cache and the system's changes may take of the memory.
CACHE_SHARE=25%
COW_SHARE=50%
# Seconds for a disk that a person named to turn up.
DISK_WAIT=15

prepare_client() {
  (
    cd /
    mkdir -p "$CLIENT"
    cd "$CLIENT" || exit
    mkdir -p @ bin cache dev etc/imgfactory etc/ssl/certs lib/imgfactory mnt/host run tmp
    cp /bin/busybox /bin/imgfetch bin/
    # There is no /proc here, by which busybox's shell would find the others in itself.
    for applet in cat ip mkdir mv rm sh; do
      ln -s busybox "bin/$applet"
    done
    ln -s imgfetch bin/@imgfetch
    ln -s ../bin/busybox @/udhcpc
    cp /lib/imgfactory/lease lib/imgfactory/
    cp /etc/imgfactory/* etc/imgfactory/
    [ ! -d /etc/ssl/certs ] || cp /etc/ssl/certs/* etc/ssl/certs/
    mknod -m 666 dev/null c 1 3
    mknod -m 666 dev/urandom c 1 9
    mknod -m 600 dev/kmsg c 1 11
    mknod -m 600 dev/fuse c 10 229
    : >etc/resolv.conf
  ) || fail "no room for the client in /run" "more memory: $(free -m | sed -n 's/^Mem: *\([0-9]*\).*/\1/p') MB is not enough"
  if [ -n "$opt_mirrors" ]; then
    for url in $opt_mirrors; do
      echo "$url"
    done >"$CLIENT/etc/imgfactory/mirrors"
  fi
}

start_client() {
  set -- --image "$IMAGE" --key /etc/imgfactory/release.pub --mirrors /etc/imgfactory/mirrors
  case $opt_cache in
    none) set -- "$@" --no-cache ;;
    ram)
      mount -t tmpfs -o "mode=0700,nosuid,nodev,size=$CACHE_SHARE" cache "$CLIENT/cache"
      set -- "$@" --cache "/cache/$IMAGE"
      ;;
    *)
      mount_disk "cache=$opt_cache" "$opt_cache" "$CLIENT/cache"
      mkdir -p "$CLIENT/cache/imgfactory/$NAME"
      set -- "$@" --cache "/cache/imgfactory/$NAME/$IMAGE"
      ;;
  esac
  [ -z "$opt_release" ] || set -- "$@" --release "$opt_release"
  [ -z "$opt_strict" ] || set -- "$@" --strict
  case $opt_netselect in yes) set -- "$@" --netselect ;; no) set -- "$@" --no-netselect ;; esac
  case $opt_dlahead in '') ;; no) set -- "$@" --no-dlahead ;; *) set -- "$@" --dlahead "$opt_dlahead" ;; esac
  [ -z "$opt_toram" ] || set -- "$@" --toram
  if [ -n "$opt_proxy" ]; then
    export http_proxy="$opt_proxy" https_proxy="$opt_proxy"
  fi
  say "asking $(tr '\n' ' ' <"$CLIENT/etc/imgfactory/mirrors")for $NAME"
  log=$CLIENT/run/imgfetch.log
  : >"$log"
  tail -f "$log" | while read -r line; do say "$line"; done &
  chroot "$CLIENT" @imgfetch mount "$@" /mnt/host >>"$log" 2>&1
  status=$?
  sleep 0.2
  kill "$!"
  [ "$status" = 0 ] || fail "no root file system: $(tail -n 1 "$log")" "mirror=URL, or ip= if the network is wrong"
}

attach_disk() {
  disk=$(losetup -f) && losetup -r "$disk" "$CLIENT/mnt/host/disk" ||
    fail "no loop device for the virtual disk" "the module loop, which belongs to this miniroot"
}

# mount_disk OPTION DEVICE DIRECTORY: a file system that a person named, for writing.
mount_disk() {
  within "$DISK_WAIT" wait_for_device "$2" || fail "$1: no such disk; there are: $(devices)" "one of these"
  mkdir -p "$3"
  mount -o nosuid,nodev "$device" "$3" ||
    fail "$1: $device can't be mounted for writing" "a partition with ext4, made by mkfs.ext4 -L NAME"
}
