# The kernel's command line -> opt_* variables. Words that are not ours are for the kernel or for the system.

# parse_command_line TEXT: 0, or 1 with one line in $problem that says what is wrong and what is allowed.
parse_command_line() {
  problem=
  opt_mirrors=          # URLs, spaces between; empty: those of the image
  opt_release=          # number; empty: the newest
  opt_redirects=        # any; empty: to mirrors only
  opt_netselect=        # yes, no; empty: as the client likes
  opt_dlahead=          # connections, or no; empty: as the client likes
  opt_deadline=         # a time as the client takes it, or none; empty: as the client likes
  opt_cache=ram         # ram, none, or a device as device_of takes it
  opt_blocks=none       # none, or a device with a mirror's tree
  opt_toram=            # yes
  opt_cow=tmpfs         # tmpfs, or a device
  opt_proxy=            # URL
  opt_ip=dhcp           # dhcp, static, ask
  opt_ip_device=        # empty: the first that works
  opt_ip_address= opt_ip_prefix= opt_ip_gateway= opt_ip_hostname= opt_ip_dns=
  opt_strict=           # yes
  opt_rescue=           # yes
  opt_reads=            # yes: the first mirror is told what is read
  opt_disk=$DISK        # block device with the root file system; empty: the client fetches it
  opt_init=/sbin/init
  set -f
  # The words are what the kernel's command line consists of.
  for word in $1; do
    set_option "$word" || break
  done
  set +f
  [ -z "$problem" ]
}

wrong() {
  problem="$word: $1"
  return 1
}

set_option() {
  value=${1#*=}
  case $1 in
    mirror=* | fuse_uri=*) set_mirrors ;;
    release=*)
      is_number "$value" 1 9223372036854775807 || wrong "allowed is the number of a release, from 1"
      opt_release=$value
      ;;
    netselect) opt_netselect=yes ;;
    nonetselect) opt_netselect=no ;;
    dlahead=*)
      is_number "$value" 1 64 || wrong "allowed are 1 to 64 connections, or nodlahead"
      opt_dlahead=$value
      ;;
    nodlahead) opt_dlahead=no ;;
    deadline=*)
      [ "$value" = none ] || is_time "$value" || wrong "allowed are none, and a time up to a day as 90s or 5m"
      opt_deadline=$value
      ;;
    memcache) opt_cache=ram ;;
    nocache) opt_cache=none ;;
    cache=*)
      is_device "$value" || wrong "allowed are LABEL=x, UUID=x, /dev/x; in RAM: memcache; none: nocache"
      opt_cache=$value
      ;;
    blocks=*)
      [ "$value" = none ] || is_device "$value" || wrong "allowed are none, LABEL=x, UUID=x, /dev/x"
      opt_blocks=$value
      ;;
    toram) opt_toram=yes ;;
    cow=*)
      [ "$value" = tmpfs ] || is_device "$value" || wrong "allowed are tmpfs, LABEL=x, UUID=x, /dev/x"
      opt_cow=$value
      ;;
    http_proxy=*)
      is_url "$value" http || wrong "allowed is http://HOST:PORT/"
      opt_proxy=$value
      ;;
    ip=*) set_ip "$value" ;;
    staticipaddress) opt_ip=ask ;;
    redirects=*)
      [ "$value" = any ] || [ "$value" = mirrors ] || wrong "allowed are any, and mirrors"
      opt_redirects=$value
      ;;
    strict) opt_strict=yes ;;
    rescue) opt_rescue=yes ;;
    imgfactory.reads) opt_reads=yes ;;
    imgfactory.disk=*)
      is_device "$value" || wrong "allowed are LABEL=x, UUID=x, /dev/x"
      opt_disk=$value
      ;;
    init=/*) opt_init=$value ;;
    mirror | fuse_uri | release | dlahead | deadline | cache | blocks | cow | http_proxy | ip | redirects)
      wrong "it needs a value: $1=..."
      ;;
    netselect=* | nonetselect=* | nodlahead=* | memcache=* | nocache=* | toram=* | staticipaddress=* | strict=* | rescue=* | imgfactory.reads=*)
      wrong "${1%%=*} takes no value"
      ;;
  esac
  [ -z "$problem" ]
}

set_mirrors() {
  opt_mirrors=
  commas=$value
  while [ -n "$commas" ]; do
    url=${commas%%,*}
    is_url "$url" http https || { wrong "allowed are http:// and https:// addresses, commas between"; return; }
    opt_mirrors="$opt_mirrors${opt_mirrors:+ }${url%/}/"
    case $commas in *,*) commas=${commas#*,} ;; *) commas= ;; esac
  done
  [ -n "$opt_mirrors" ] || wrong "allowed are http:// and https:// addresses, commas between"
}

# The kernel's syntax, Documentation/admin-guide/nfs/nfsroot.rst:
# CLIENT:SERVER:GATEWAY:NETMASK:HOSTNAME:DEVICE:AUTOCONF:DNS:DNS, or AUTOCONF alone.
set_ip() {
  opt_ip_address= opt_ip_prefix= opt_ip_gateway= opt_ip_hostname= opt_ip_dns=
  help="allowed are dhcp and CLIENT::GATEWAY:NETMASK::DEVICE:off:DNS in IPv4 addresses"
  case $1 in
    dhcp | on | any | both) opt_ip=dhcp; return ;;
    '' | off | none) wrong "$help"; return ;;
  esac
  IFS=: read -r address server gateway netmask hostname opt_ip_device auto dns0 dns1 more <<END
$1
END
  case $auto in
    '' | off | none | dhcp | on | any | both) ;;
    *) wrong "$help"; return ;;
  esac
  if [ -z "$address" ]; then
    case $auto in off | none) wrong "$help"; return ;; esac
    opt_ip=dhcp
    return
  fi
  for each in "$address" ${gateway:+"$gateway"} ${dns0:+"$dns0"} ${dns1:+"$dns1"}; do
    is_ipv4 "$each" || { wrong "$each is no IPv4 address; $help"; return; }
  done
  opt_ip_prefix=$(prefix_of "${netmask:-$(class_netmask "$address")}") ||
    { wrong "$netmask is no netmask; $help"; return; }
  opt_ip=static opt_ip_address=$address opt_ip_gateway=$gateway opt_ip_hostname=$hostname
  opt_ip_dns="$dns0${dns1:+ $dns1}"
}

# is_number TEXT LEAST MOST
is_number() {
  case $1 in '' | 0?* | *[!0-9]*) return 1 ;; esac
  # The shell refuses numbers above 2^63-1 with a message.
  [ "${#1}" -le 19 ] && [ "$1" -ge "$2" ] 2>/dev/null && [ "$1" -le "$3" ]
}

# is_time TEXT: 90s, 5m, or seconds; up to a day.
is_time() {
  case $1 in
    *m) is_number "${1%m}" 1 1440 ;;
    *) is_number "${1%s}" 1 86400 ;;
  esac
}

# is_url TEXT SCHEME...
is_url() {
  rest=$1
  shift
  for scheme; do
    case $rest in
      "$scheme"://[!/:]*) case $rest in *[\"\'\\\<\>]*) return 1 ;; *) return 0 ;; esac ;;
    esac
  done
  return 1
}

is_device() {
  case $1 in
    LABEL=?* | UUID=?*) ;;
    /dev/?*) case $1 in */../* | */..) return 1 ;; esac ;;
    *) return 1 ;;
  esac
}

is_ipv4() {
  case $1 in *.*.*.*.* | *[!0-9.]*) return 1 ;; *.*.*.*) ;; *) return 1 ;; esac
  IFS=. read -r a b c d <<END
$1
END
  for octet in "$a" "$b" "$c" "$d"; do
    is_number "$octet" 0 255 || return 1
  done
}

# The netmask of an address's class, as the kernel takes it when none is given.
class_netmask() {
  if [ "${1%%.*}" -lt 128 ]; then
    echo 255.0.0.0
  elif [ "${1%%.*}" -lt 192 ]; then
    echo 255.255.0.0
  else
    echo 255.255.255.0
  fi
}

# prefix_of 255.255.255.0 -> 24; a length stays one.
prefix_of() {
  if is_number "$1" 1 32; then
    echo "$1"
    return
  fi
  is_ipv4 "$1" || return 1
  IFS=. read -r a b c d <<END
$1
END
  bits=0 over=
  for octet in "$a" "$b" "$c" "$d"; do
    [ -z "$over" ] || [ "$octet" = 0 ] || return 1
    case $octet in
      255) bits=$((bits + 8)) ;;
      254) bits=$((bits + 7)) ;;
      252) bits=$((bits + 6)) ;;
      248) bits=$((bits + 5)) ;;
      240) bits=$((bits + 4)) ;;
      224) bits=$((bits + 3)) ;;
      192) bits=$((bits + 2)) ;;
      128) bits=$((bits + 1)) ;;
      0) ;;
      *) return 1 ;;
    esac
    [ "$octet" = 255 ] || over=yes
  done
  [ "$bits" -gt 0 ] && echo "$bits"
}
