# What the scripts of this folder share. Sourced, with a word for the names of temporary files: checks that mounting is
# possible here (else ends with 77), goes to a directory of its own in memory, and leaves nothing behind, whatever happens.
((EUID == 0)) || { echo "SKIPPED: mounting needs root"; exit 77; }
[[ -c /dev/fuse ]] && { : <>/dev/fuse; } 2>/dev/null || { echo "SKIPPED: /dev/fuse cannot be opened"; exit 77; }
export PATH=${DAXCOW_BIN_DIR:?where the built programs are}:$PATH

base=${DAXCOW_TEST_POOLS:-/dev/shm}
[[ -w $base ]] || base=${TMPDIR:-/tmp}
work=$(mktemp -d "$base/daxcow-$1-XXXXXX") || exit 1
cd "$work" || exit 1
chmod 755 . # nobody runs tools here
failures=0

cleanup() {
  cd /
  local point
  for point in "$work"/mnt*; do
    while mountpoint -q "$point"; do umount "$point" 2>/dev/null || umount -l "$point" || break; done
  done
  wait_for_end "$work"/*.pool
  rm -rf "$work"
}
trap cleanup EXIT

# The daemon of a pool holds its lock until it has ended.
wait_for_end() {
  local pool
  for pool; do
    if [[ -f $pool ]]; then flock -x -w 30 "$pool" true || return; fi
  done
}

fail() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}

# refused CODE WORDS COMMAND...: the command fails with this code and says one line, with these words and the program's
# name.
refused() {
  local code=$1 words=$2 status
  shift 2
  timeout -k 5 60 "$@" >out 2>err </dev/null
  status=$?
  [[ $status == "$code" ]] || fail "$*: exit code $status, not $code: $(cat err)"
  [[ $(wc -l <err) == 1 && ! -s out ]] || fail "$*: not one line: $(cat out err)"
  grep -qiE -- "$words" err || fail "$*: says '$(cat err)', without '$words'"
  grep -qE '^(mkfs|mount|fsck)?\.?daxcow( [a-z-]+)*: ' err || fail "$*: does not say who speaks: $(cat err)"
}

works() {
  timeout -k 5 60 "$@" >out 2>err </dev/null || fail "$*: exit code $?: $(cat out err)"
}

# fails WORDS COMMAND...: another program's command fails and says these words.
fails() {
  local words=$1
  shift
  timeout -k 5 60 "$@" >out 2>err </dev/null && fail "$*: worked"
  grep -qiE -- "$words" err || fail "$*: says '$(cat err)', without '$words'"
}

daemon_of() { daxcow stat --json "$1" | sed -n 's/.*"process": *\([0-9]*\).*/\1/p' | head -n 1; }

as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups)

# The last line of a script.
finish() {
  ((failures == 0)) || { echo "$failures failed" >&2; exit 1; }
  echo "all as it should be"
}
