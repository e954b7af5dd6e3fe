# The client, imgfetch: it serves the virtual disk for as long as the system runs, so it lives in a directory of
# its own that moves to the new root with /run. Its name begins with @: systemd's way to say that a process
# serves the root file system and is not to be ended at shutdown (systemd.io/ROOT_STORAGE_DAEMONS).

# What the cache, the cache with everything in it, and the system's changes may take of the memory.
CACHE_SHARE=25%
TORAM_SHARE=75%
COW_SHARE=50%
# Below a disk's root: a mirror's tree, as the medium of `imgfactory iso` has it.
MIRROR_TREE=mirror
# Seconds for a disk that a person named to turn up.
DISK_WAIT=15
# Seconds for a mirror to give a release.
START_WAIT=60

prepare_client() {
  (
    mkdir -p "$CLIENT"
    cd "$CLIENT" || exit
    mkdir -p @ bin cache dev etc/imgfactory lib/imgfactory mnt/host run tmp
    cp /bin/busybox /bin/imgfetch bin/
    # There is no /proc here, by which busybox's shell would find the others in itself.
    for applet in cat grep ip mkdir mv rm sh sleep wget; do
      ln -s busybox "bin/$applet"
    done
    ln -s ../bin/busybox @/udhcpc
    cp /lib/imgfactory/lease lib/imgfactory/
    cp /etc/imgfactory/* etc/imgfactory/
    mknod -m 666 dev/null c 1 3
    mknod -m 666 dev/urandom c 1 9
    mknod -m 600 dev/kmsg c 1 11
    mknod -m 600 dev/fuse c 10 229
    : >etc/resolv.conf
  ) || fail "no room for the client in /run" "more memory for this machine"
  [ -z "$opt_mirrors" ] || printf '%s\n' $opt_mirrors >"$CLIENT/etc/imgfactory/mirrors"
}

# `blocks=`: sets $medium to the place of a mirror's tree on a disk, as the client sees it; empty: there is none.
find_medium() {
  medium=
  [ "$opt_blocks" != none ] || return 0
  modprobe -aq isofs 2>/dev/null
  if ! within "$DISK_WAIT" wait_for_device "$opt_blocks"; then
    say "blocks=$opt_blocks: no such disk among $(devices); all comes over the network"
    return 0
  fi
  mkdir -p "$CLIENT/medium"
  if mount -o ro,nosuid,nodev "$device" "$CLIENT/medium" && [ -e "$CLIENT/medium/$MIRROR_TREE/latest" ]; then
    medium=medium/$MIRROR_TREE
    say "blocks on $device are read before the network is asked"
  else
    umount "$CLIENT/medium" 2>/dev/null
    say "blocks=$opt_blocks: $device has no $MIRROR_TREE/latest; all comes over the network"
  fi
}

# Sets $words: what was chosen for this boot's clients, the host's and its guests'.
choose_words() {
  words="--name $NAME"
  [ -z "$opt_strict" ] || words="$words --strict"
  [ -z "$opt_redirects" ] || words="$words --redirects $opt_redirects"
  case $opt_dlahead in
    '') ;;
    no) words="$words --no-prefetch" ;;
    *) words="$words --connections $opt_dlahead" ;;
  esac
  case $opt_netselect in
    yes) words="$words --netselect" ;;
    no) words="$words --no-netselect" ;;
  esac
}

start_client() {
  choose_words
  # None of these words has a space in it.
  set -- --root-daemon --image "$IMAGE" $words \
    --key /etc/imgfactory/release.pub --mirrors /etc/imgfactory/mirrors --start-within "$START_WAIT"
  prepare_cache
  [ -z "$cache" ] || set -- "$@" --cache "/cache/$cache/$IMAGE"
  [ -z "$medium" ] || set -- "$@" --medium "/$medium"
  [ ! -e "$CLIENT/etc/imgfactory/ca.crt" ] || set -- "$@" --ca /etc/imgfactory/ca.crt
  [ -z "$opt_release" ] || set -- "$@" --release "$opt_release"
  [ -z "$opt_proxy" ] || set -- "$@" --proxy "$opt_proxy"
  [ -z "$opt_deadline" ] || set -- "$@" --deadline "$opt_deadline"
  [ -z "$opt_reads" ] || set -- "$@" --record-reads /run/reads
  note_for_guests
  say "asking $(tr '\n' ' ' <"$CLIENT/etc/imgfactory/mirrors")for $NAME"
  log=$CLIENT/run/imgfetch.log
  : >"$log"
  tail -f "$log" | while read -r line; do say "$line"; done &
  watcher=$!
  (
    # The last to be ended when memory is short.
    echo -1000 >/proc/self/oom_score_adj
    exec chroot "$CLIENT" imgfetch mount "$@" /mnt/host
  ) >>"$log" 2>&1
  status=$?
  kill "$watcher"
  [ "$status" = 0 ] || fail "no root file system: $(tail -n 1 "$log")" "mirror=URL, or ip= if the network is wrong"
  [ -z "$opt_reads" ] || send_reads
  [ -z "$opt_toram" ] || fetch_all
}

# `imgfactory.reads`: the first mirror is sent what the clients of host and guests note, for as long as the system runs.
send_reads() {
  read -r mirror <"$CLIENT/etc/imgfactory/mirrors"
  chroot "$CLIENT" sh -c '
    while sleep 1; do
      for file in run/reads/*; do
        [ ! -e "$file" ] || wget -q -O /dev/null --post-file "$file" "$0reads/${file##*/}"
      done
    done' "$mirror" </dev/null >/dev/null 2>&1 &
}

# Sets $cache: directory below /cache of the client, for the host and its guests; empty for none.
prepare_cache() {
  case $opt_cache in
    none)
      [ -z "$medium" ] || fail "nocache and blocks= contradict each other" "nocache with blocks=none"
      [ -z "$opt_toram" ] || fail "toram and nocache contradict each other" "one of them"
      cache=
      ;;
    ram)
      cache=$NAME
      share=$CACHE_SHARE
      [ -z "$opt_toram" ] || share=$TORAM_SHARE
      mount -t tmpfs -o "mode=0700,nosuid,nodev,size=$share" cache "$CLIENT/cache"
      ;;
    *)
      cache=imgfactory/$NAME
      mount_disk "cache=$opt_cache" "$opt_cache" "$CLIENT/cache"
      ;;
  esac
  [ -z "$cache" ] || mkdir -p "$CLIENT/cache/$cache"
}

# What the clients of guests take over: /usr/lib/imgfactory/guest in the host reads it.
note_for_guests() {
  {
    echo "IMGFACTORY_WORDS='$words'"
    [ -z "$cache" ] || echo "IMGFACTORY_CACHE=$CLIENT/cache/$cache"
    [ -z "$medium" ] || echo "IMGFACTORY_MEDIUM=$CLIENT/$medium"
    [ -z "$opt_release" ] || echo "IMGFACTORY_RELEASE=$opt_release"
    [ -z "$opt_deadline" ] || echo "IMGFACTORY_DEADLINE=$opt_deadline"
    [ -z "$opt_reads" ] || echo "IMGFACTORY_READS=$CLIENT/run/reads"
    [ -z "$opt_proxy" ] || printf 'http_proxy=%s\nhttps_proxy=%s\n' "$opt_proxy" "$opt_proxy"
  } >/run/imgfactory/environment
}

# `toram`: reads the whole disk once, which leaves every block in the cache.
fetch_all() {
  disk=$CLIENT/mnt/host/disk
  say "fetching all $(($(stat -c %s "$disk") >> 20)) MiB of the disk into the cache"
  cat "$disk" >/dev/null || fail "toram: not all of the disk could be read" "booting without toram"
  used=$(df -P "$CLIENT/cache" | sed -n '2s/.* \([0-9]*\)%.*/\1/p')
  [ "$used" -lt 79 ] || say "toram: the cache is too small for everything; the rest comes over the network when it is read"
}

attach_disk() {
  disk=$(losetup -f) && losetup -r "$disk" "$CLIENT/mnt/host/disk" ||
    fail "no loop device for the virtual disk" "the module loop, which belongs to this miniroot"
}

# mount_disk OPTION DEVICE DIRECTORY: a file system that a person named, for writing.
mount_disk() {
  within "$DISK_WAIT" wait_for_device "$2" || fail "$1: no such disk" "one of these: $(devices)"
  mkdir -p "$3"
  mount -o nosuid,nodev "$device" "$3" ||
    fail "$1: $device can't be mounted for writing" "a partition with ext4, made by mkfs.ext4 -L NAME"
}
