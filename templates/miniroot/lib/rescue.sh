# Read by the shells of the rescue mode.
PS1='(miniroot) \w # '
alias reboot='reboot -f'
alias poweroff='poweroff -f'
