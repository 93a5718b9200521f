#!/usr/bin/env bash
# How much longer it takes to clone a file of 200,000 extents than one written at once (a few extents: metadata lies in
# between): both of 1 GiB, cloned in turns by `cp --reflink=auto` on one mount. Prints the medians and their ratio.
# Needs root, /dev/fuse and 4 GiB in memory.
#
#   test/bench/clone_extents.sh [BIN-DIR] [PAIRS]      default: build/release/bin, 15
set -euo pipefail

bin=${1:-$(dirname "${BASH_SOURCE[0]}")/../../build/release/bin}
pairs=${2:-15}
export PATH=$(realpath "$bin"):$PATH
((EUID == 0)) || { echo "$0: mounting needs root" >&2; exit 1; }
work=$(mktemp -d /dev/shm/daxcow-bench-XXXXXX)
cleanup() {
  cd /
  if mountpoint -q "$work/mnt"; then umount "$work/mnt" || umount -l "$work/mnt"; fi
  [[ ! -e $work/pool ]] || flock -x -w 60 "$work/pool" true || true
  rm -rf "$work"
}
trap cleanup EXIT
cd "$work"
mkdir mnt
mkfs.daxcow -q --size 4G pool
mount.daxcow pool mnt

echo "Making the files..."
# Every second block is overwritten while it is shared, so that it moves: 100,000 blocks make 200,000 extents. The file
# that it was shared with goes: sharing splits runs too, and here the two files have nothing in common.
dd if=/dev/zero of=mnt/base bs=1M count=1024 status=none
cp --reflink=auto mnt/base mnt/fragmented
perl -e '
  open(my $file, "+<", "mnt/fragmented") or die "mnt/fragmented: $!";
  for my $i (0 .. 99_999) {
    sysseek($file, (2 * $i + 1) * 4096, 0);
    syswrite($file, pack("Q", $i) x 512) == 4096 or die "write: $!";
  }
  close($file) or die "close: $!";'
rm mnt/base
daxcow settle pool
dd if=/dev/zero of=mnt/whole bs=1M count=1024 status=none
extents() { daxcow map --json "$1" | grep -c '"pool_offset_bytes"'; }
echo "extents of the whole file:      $(extents mnt/whole)"
echo "extents of the fragmented file: $(extents mnt/fragmented)"

time_of_clone() { # nanoseconds
  local start end
  start=$(date +%s%N)
  cp --reflink=auto "mnt/$1" mnt/clone
  end=$(date +%s%N)
  rm mnt/clone
  echo $((end - start))
}
time_of_clone whole >/dev/null
time_of_clone fragmented >/dev/null
for ((i = 0; i < pairs; ++i)); do
  if ((i % 2)); then
    whole=$(time_of_clone whole) fragmented=$(time_of_clone fragmented)
  else
    fragmented=$(time_of_clone fragmented) whole=$(time_of_clone whole)
  fi
  echo "$whole $fragmented"
done >times
cp --reflink=auto mnt/fragmented mnt/clone
cmp mnt/fragmented mnt/clone

median() { cut -d' ' -f"$1" times | sort -n | sed -n "$(((pairs + 1) / 2))p"; }
awk -v whole="$(median 1)" -v fragmented="$(median 2)" -v pairs="$pairs" 'BEGIN {
  printf "median of %d: whole %.2f ms, fragmented %.2f ms, ratio %.2f\n", pairs, whole / 1e6, fragmented / 1e6,
    fragmented / whole
}'
