#!/bin/sh
# Run by mmdebstrap with the tree's path: adds the user `live`, who has no password, may become root, and is
# logged in at the desktop. Nothing that is worth a password is in a live system.
set -eu
root=$1
chroot "$root" useradd --create-home --shell /bin/bash --comment "Live user" --groups sudo,audio,video,netdev live
chroot "$root" passwd --delete live
echo 'live ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/live"
chmod 0440 "$root/etc/sudoers.d/live"
mkdir -p "$root/etc/lightdm/lightdm.conf.d"
printf '[Seat:*]\nautologin-user=live\n' > "$root/etc/lightdm/lightdm.conf.d/50-live.conf"
