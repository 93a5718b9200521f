#!/usr/bin/env bash
# test/bench/run, as small as possible, on daxcow and the floor: it measures every case, and writes its table, JSON and picture. Says
# nothing about times.
set -uo pipefail
: "${DAXCOW_BIN_DIR:?where the built programs are}" "${DAXCOW_SOURCE_DIR:?}"
command -v python3 >/dev/null || { echo "SKIPPED: python3 is missing"; exit 77; }
((EUID == 0)) && [[ -r /dev/fuse && -w /dev/fuse ]] || { echo "SKIPPED: mounting needs root and /dev/fuse"; exit 77; }
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0
left() { ls -d /dev/shm/daxcow-bench-* 2>/dev/null; }
before=$(left)
fail() { echo "FAILED: $*"; failures=1; }
run=$DAXCOW_SOURCE_DIR/test/bench/run
cases=clone_4k,clone_contiguous,clone_fragmented,clone_deep,overwrite,random,sequential,latency,names,growth

"$run" --tiny --cases $cases --peers floor --json "$work/json" --svg "$work/svg" >"$work/table" 2>"$work/log" || {
  cat "$work/log"
  fail "exit code of the program"
}
for metric in clone_4k clone_fragmented clone_deep overwrite_shared random_4k_read_direct_t1 random_4k_write_mmap_t4 \
  sequential_1m_read_buffered_t2 fsync_after_write create stat unlink; do
  # daxcow's median, and a ratio to the floor
  grep -Eq "^\| $metric \| [0-9.e+]+ (ns|us|ms|s) \|.*\| [0-9.e+-]+x \|$" "$work/table" || fail "no line of $metric"
done
grep -q '^| 1000 |' "$work/table" || fail "nothing about growth"
python3 - "$work/json" "$work/svg" <<'PYTHON' || fail "JSON or SVG"
import json, sys
from xml.dom import minidom
measured = json.load(open(sys.argv[1]))["measurements"]
for peer in ("daxcow", "floor"):
    assert len({line["metric"] for line in measured if line["peer"] == peer and line["ns"] > 0}) > 40, peer
assert len(minidom.parse(sys.argv[2]).getElementsByTagName("circle")) > 40
PYTHON
[[ "$(left)" == "$before" ]] || fail "it left something in /dev/shm"

"$run" --cases nothing >"$work/out" 2>&1 && fail "an unknown case was taken"
grep -q "unknown case nothing" "$work/out" || fail "an unknown case is not named"
exit $failures
