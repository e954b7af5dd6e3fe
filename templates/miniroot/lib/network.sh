# The network: DHCP on every link at once, the first answer wins; or the address that `ip=` gives.

# Seconds until there must be a link with an answer.
NETWORK_WAIT=60
# With blocks on the medium there need not be one.
NETWORK_WAIT_WITH_BLOCKS=15
LEASE=$CLIENT/run/lease
IP_SYNTAX=ip=CLIENT::GATEWAY:NETMASK:::off:DNS

# Links with hardware behind them. Radio needs a key that nobody has asked for.
links() {
  for path in /sys/class/net/*; do
    [ -e "$path/device" ] && [ ! -e "$path/wireless" ] && [ ! -e "$path/phy80211" ] &&
      [ "$(cat "$path/type")" = 1 ] && echo "${path##*/}"
  done
}

bring_network_up() {
  ip link set lo up
  [ "$opt_ip" != ask ] || ask_for_address
  say "looking for a network"
  [ -z "$medium" ] || NETWORK_WAIT=$NETWORK_WAIT_WITH_BLOCKS
  if [ "$opt_ip" = dhcp ]; then
    within "$NETWORK_WAIT" leased || { without_network "$(why_no_lease)"; return; }
    stop_losers
  else
    within "$NETWORK_WAIT" static_link || { without_network "$(why_no_link)"; return; }
    use_static_address
  fi
  why=$(why_unreachable)
  [ -z "$why" ] || { without_network "$(cat "$LEASE/summary"): $why"; return; }
  keep_network "$(cat "$LEASE/link")"
  say "network: $(cat "$LEASE/summary")"
}

# without_network WHY: the medium's blocks will do, or nothing does. DHCP goes on asking: a cable may come later.
without_network() {
  [ -n "$medium" ] || fail "no network: $1" "$(what_to_try)"
  for link in $(links); do
    keep_network "$link"
  done
  say "no network: $1; going on with what is on the medium"
}

# One round: asks on links that turned up since the last; 0 when there is a lease.
leased() {
  for link in $(links); do
    [ -z "$opt_ip_device" ] || [ "$opt_ip_device" = "$link" ] || continue
    [ -e "/run/imgfactory/dhcp/$link" ] || ask_for_lease "$link"
  done
  [ ! -e "$LEASE/summary" ] || return 0
  # A card behind USB may turn up late.
  [ -n "$(links)" ] || load_drivers
  return 1
}

# The DHCP client stays for as long as the lease is needed: below the client's directory, which outlives the
# miniroot, and with an @, so that systemd leaves it to the end (see client.sh).
ask_for_lease() {
  mkdir -p /run/imgfactory/dhcp
  ip link set "$1" up
  chroot "$CLIENT" @/udhcpc -f -i "$1" -s /lib/imgfactory/lease -t 4 -T 1 -A 1 \
    -O mtu -O search -O staticroutes -O msstaticroutes >/dev/null 2>&1 &
  echo "$!" >"/run/imgfactory/dhcp/$1"
}

stop_losers() {
  for file in /run/imgfactory/dhcp/*; do
    [ "${file##*/}" = "$(cat "$LEASE/link")" ] || kill "$(cat "$file")" 2>/dev/null
  done
}

# The link of `ip=`, or the first one with a cable.
static_link() {
  [ -n "$(links)" ] || load_drivers
  for link in $(links); do
    [ -z "$opt_ip_device" ] || [ "$opt_ip_device" = "$link" ] || continue
    ip link set "$link" up
    [ "$(cat "/sys/class/net/$link/carrier" 2>/dev/null)" != 1 ] || return 0
  done
  return 1
}

use_static_address() {
  interface=$link ip=$opt_ip_address mask=$opt_ip_prefix router=$opt_ip_gateway dns=$opt_ip_dns \
    chroot "$CLIENT" /bin/sh /lib/imgfactory/lease static || fail "$link does not take $opt_ip_address" "another address in ip="
}

# host_of URL
host_of() {
  rest=${1#*://}
  rest=${rest%%/*}
  rest=${rest##*@}
  case $rest in
    \[*) rest=${rest#\[} && echo "${rest%%\]*}" ;;
    *) echo "${rest%%:*}" ;;
  esac
}

has_route() {
  ip route get "$1" >/dev/null 2>&1
}

# why_unreachable: prints nothing if there is a route to a mirror, or to a DNS server where mirrors have names;
# otherwise what is missing. With a proxy, only the proxy has to be reached.
why_unreachable() {
  servers=$(sed -n 's/^nameserver //p' "$CLIENT/etc/resolv.conf")
  no_route='' nameless=''
  for url in ${opt_proxy:-$(cat "$CLIENT/etc/imgfactory/mirrors")}; do
    host=$(host_of "$url")
    case $host in
      # Whether IPv6 works is seen later.
      *:*) return ;;
    esac
    if is_ipv4 "$host"; then
      ! has_route "$host" || return 0
      no_route="$no_route $host"
    elif [ -n "$servers" ]; then
      for server in $servers; do
        ! has_route "$server" || return 0
      done
      no_route="$no_route the DNS servers"
      servers=
    else
      nameless="$nameless $host"
    fi
  done
  [ -z "$no_route" ] || echo "no route to$no_route"
  [ -n "$no_route" ] || [ -z "$nameless" ] || echo "no DNS server to ask for$nameless"
}

# `staticipaddress`: asks until the answers make sense.
ask_for_address() {
  while :; do
    address= netmask= gateway= dns=
    ask address "IP address of this machine"
    ask netmask "netmask [255.255.255.0]"
    ask gateway "gateway [none]"
    ask dns "DNS server [none]"
    word=staticipaddress problem=
    set_ip "$address::$gateway:${netmask:-255.255.255.0}::::$dns"
    [ "$opt_ip" != static ] || [ -n "$problem" ] || return 0
    say "$problem"
  done
}

# ask VARIABLE QUESTION: on the last of `console=`, which is the one with the person in front.
ask() {
  printf '%s: ' "$2" >/dev/console
  read -r "$1" </dev/console || sleep 1
}

why_no_link() {
  [ -n "$(links)" ] || { echo "no wired network card that this image has a driver for"; return; }
  [ -z "$opt_ip_device" ] || [ -e "/sys/class/net/$opt_ip_device" ] ||
    { echo "no link $opt_ip_device; there are: $(links | tr '\n' ' ')"; return; }
  echo "no cable in: $(links | tr '\n' ' ')"
}

why_no_lease() {
  with_cable=
  for link in $(links); do
    [ "$(cat "/sys/class/net/$link/carrier" 2>/dev/null)" != 1 ] || with_cable="$with_cable $link"
  done
  refusing=$(cat "$CLIENT"/run/refused-* 2>/dev/null | sort -u | tr '\n' ' ')
  if [ -n "$refusing" ]; then
    echo "DHCP server ${refusing% } refused to give an address on$with_cable within $NETWORK_WAIT s"
  elif [ -n "$with_cable" ]; then
    echo "no DHCP server answers on$with_cable within $NETWORK_WAIT s"
  else
    why_no_link
  fi
}

what_to_try() {
  server=$(cat "$LEASE/server" 2>/dev/null)
  if [ -n "$server" ]; then
    echo "gateway (option 3) or routes (121), and DNS servers (6), on the DHCP server $server, or an address of your own: $IP_SYNTAX"
  elif [ -e "$LEASE/summary" ]; then
    echo "another gateway or DNS server: $IP_SYNTAX"
  elif [ -n "$(links)" ]; then
    echo "the cable, or an address of your own: $IP_SYNTAX"
  else
    echo "another network card, or its driver under boot: modules: in the recipe"
  fi
}

# keep_network LINK: the root file system comes over it, so nothing in the system may rename it or take it down.
keep_network() {
  link=$1
  mkdir -p /run/systemd/network /run/NetworkManager/conf.d
  printf '[Match]\nOriginalName=%s\n\n[Link]\nName=%s\n' "$link" "$link" >"/run/systemd/network/00-imgfactory-$link.link"
  printf '[Match]\nName=%s\n\n[Link]\nUnmanaged=yes\n' "$link" >"/run/systemd/network/00-imgfactory-$link.network"
  printf '[keyfile]\nunmanaged-devices+=interface-name:%s\n' "$link" >"/run/NetworkManager/conf.d/00-imgfactory-$link.conf"
}
