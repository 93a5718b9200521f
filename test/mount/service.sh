#!/usr/bin/env bash
# The daemon as a service: what it says to syslog, to the journal and to the service manager, in the background and in the
# foreground.
set -uo pipefail

if ((EUID == 0)) && [[ -z ${DAXCOW_OWN_NAMESPACE:-} ]]; then
  unshare -m true 2>/dev/null || { echo "SKIPPED: no mount namespace can be made here"; exit 77; }
  DAXCOW_OWN_NAMESPACE=1 exec unshare -m bash "$(readlink -f "$0")"
fi
. "$(dirname "$0")/fixture.bash" service
command -v perl >/dev/null || { echo "SKIPPED: perl is missing"; exit 77; }

# A /dev of its own with a /dev/log that leads to a file, and a pool that only this namespace has, so that the daemon stays
# in it.
mkdir mnt mnt2 dev
mount -t tmpfs none dev
mkdir dev/shm dev/pts dev/pools
for device in fuse null zero urandom tty; do : >dev/$device && mount --bind /dev/$device dev/$device; done
mount --bind /dev/shm dev/shm
mount -t devpts -o newinstance,ptmxmode=666 none dev/pts && ln -s pts/ptmx dev/ptmx
cat >listen.pl <<'END'
use Socket;
my ($path, $file) = @ARGV;
socket(my $socket, PF_UNIX, SOCK_DGRAM, 0) or die;
bind($socket, pack_sockaddr_un($path)) or die "$path: $!\n";
open(my $out, ">>", $file) or die;
$out->autoflush(1);
while (defined recv($socket, my $message, 65536, 0)) { print $out "$message\n"; }
END
listeners=()
trap 'kill "${listeners[@]}" 2>/dev/null; cleanup' EXIT
listen() { # listen SOCKET FILE
  : >"$2"
  perl -MIO::Handle listen.pl "$1" "$2" &
  listeners+=($!)
  local i
  for ((i = 0; i < 200; ++i)); do [[ -S $1 ]] && return || sleep 0.02; done
  fail "no listener at $1"
}
listen "$work/dev/log" syslog
mount --move dev /dev
cd "$work" || exit 1 # which may be on another mount now
pool=/dev/pools/service.pool
works mkfs.daxcow -q --size 32M $pool

# says FILE WORDS: within a few seconds.
says() {
  local i
  for ((i = 0; i < 250; ++i)); do grep -qE -- "$2" "$1" && return || sleep 0.02; done
  fail "$1 does not say '$2': $(cat "$1")"
}

# --- in the background: syslog ----------------------------------------------------------------------------------------
# <PRIORITY>: facility daemon is 3 * 8; warnings are 4, information is 6.
works mount.daxcow $pool mnt
says syslog "^<30>.*daxcow\[$(daemon_of $pool)\]: $pool is open"
says syslog "^<30>.*daxcow\[[0-9]+\]: volume main of $pool is mounted on $work/mnt"
head -c 65536 /dev/urandom >mnt/file
offset=$(daxcow map mnt/file | awk 'NR == 2 { print $4 }')
works daxcow inject-error mnt -B $((offset / 512)) -n 8
works daxcow settle mnt
says syslog "^<28>.*daxcow\[[0-9]+\]: .*/file"
kill -HUP "$(daemon_of $pool)"
says syslog "^<30>.*daxcow\[[0-9]+\]: signal Hangup: going on"
exec 9<mnt/file
kill "$(daemon_of $pool)"
says syslog "signal Terminated: ending"
says syslog "^<28>.*daxcow\[[0-9]+\]: $work/mnt is still in use"
says syslog "is unmounted from $work/mnt"
says syslog "$pool is closed"
exec 9<&-
wait_for_end $pool
! mountpoint -q mnt || fail "mounted after SIGTERM"

# --- in the foreground: standard error, and the service manager ---------------------------------------------------------
listen "$work/notify" notifications
# foreground ENVIRONMENT...: starts one in $daemon, without a terminal, and waits until it is mounted.
foreground() {
  : >notifications
  env NOTIFY_SOCKET="$work/notify" "$@" setsid mount.daxcow --foreground $pool mnt >out 2>err </dev/null &
  says notifications "READY=1"
  mountpoint -q mnt || fail "told to be ready before it was mounted"
  daemon=$(daemon_of $pool)
}
foreground
says err "volume main of $pool is mounted on"
refused 32 "served by a daemon already" mount.daxcow --foreground $pool mnt2
works daxcow volume create $pool other
works mount.daxcow $pool mnt2 -o volume=other
[[ $(daemon_of $pool) == "$daemon" ]] || fail "the second mount has another daemon"
kill -HUP "$daemon"
says err "going on"
works umount mnt # others are mounted still
works touch mnt2/file
: >syslog
kill "$daemon"
says notifications "STOPPING=1"
wait "$!" || fail "ended by SIGTERM with exit code $?"
! mountpoint -q mnt2 || fail "mounted after SIGTERM"
[[ ! -s syslog ]] || fail "a daemon in the foreground uses syslog: $(cat syslog)"
# Standard error is the journal's: lines with their levels are better for it.
: >err
foreground bash -c 'JOURNAL_STREAM=$(stat -L -c %d:%i /proc/self/fd/2) exec "$@"' -
says syslog "is mounted on"
[[ ! -s err ]] || fail "the journal gets lines twice: $(cat err)"
works umount mnt
wait "$!" || fail "ended by umount with exit code $?"
# What cannot be mounted ends the service.
timeout 20 mount.daxcow --foreground $pool mnt -o volume=none >out 2>err
[[ $? == 32 ]] && grep -q "none" err || fail "a volume that is not there, in the foreground: $(cat err)"
# The hang-up of a terminal ends what it had started.
if command -v script >/dev/null; then
  script -q -c "mount.daxcow --foreground $pool mnt" /dev/null >out 2>&1 </dev/null &
  terminal=$!
  for ((i = 0; i < 200; ++i)); do mountpoint -q mnt && break || sleep 0.02; done
  mountpoint -q mnt || fail "not mounted in a terminal: $(cat out)"
  kill -HUP "$(daemon_of $pool)"
  wait $terminal
  wait_for_end $pool
  ! mountpoint -q mnt || fail "mounted after a terminal's hang-up"
fi
works fsck.daxcow $pool
finish
