# What people see: progress, the one line that says what failed, and the shell after it.

consoles=/dev/console

# Linux's consoles, as paths: those of `console=`, all of them, not only the last.
open_consoles() {
  consoles=
  for name in $(cat /sys/class/tty/console/active 2>/dev/null); do
    # A shell can't take /dev/tty0, which is whatever terminal is in front, as its own.
    [ "$name" != tty0 ] || name=tty1
    [ ! -c "/dev/$name" ] || consoles="$consoles /dev/$name"
  done
  consoles=${consoles:-/dev/console}
  exec </dev/console >/dev/console 2>&1
}

# One line on every console, and in the kernel's log, where the journal finds it.
say() {
  for console in $consoles; do
    echo "imgfactory: $*" >"$console"
  done 2>/dev/null
  # Level 7, which goes to no console a second time.
  echo "<7>imgfactory: $*" >/dev/kmsg
} 2>/dev/null

# fail WHAT TRY: one line, then a shell. Does not return.
fail() {
  say "FAILED: $1${2:+. What to try: $2}"
  rescue
}

# A shell on every console, again and again. Does not return.
rescue() {
  trap - EXIT
  say "here is a shell; \`reboot\` restarts the machine, \`dmesg\` has the kernel's messages"
  for console in $consoles; do
    shell_on "$console" &
  done
  wait
  # No console at all: nothing is left but to stay.
  while :; do sleep 3600; done
}

shell_on() {
  while :; do
    ENV=/lib/imgfactory/rescue.sh setsid -c sh -i 0<>"$1" 1>&0 2>&0
    # A console that can't be read ends the shell at once.
    sleep 1
  done
}

# Whole seconds since the start of the kernel.
uptime_seconds() {
  read -r up rest </proc/uptime
  echo "${up%%.*}"
}

# within SECONDS COMMAND...: tries until the command succeeds; 1 when the time is over.
within() {
  deadline=$(($(uptime_seconds) + $1))
  shift
  until "$@"; do
    [ "$(uptime_seconds)" -lt "$deadline" ] || return 1
    sleep 0.2
  done
}
