#!/usr/bin/env bash
# systemd accepts the units, with the programs where they were built.
set -uo pipefail
command -v systemd-analyze >/dev/null || { echo "SKIPPED: systemd-analyze is missing"; exit 77; }
: "${DAXCOW_BIN_DIR:?where the built programs are}" "${DAXCOW_SOURCE_DIR:?}" "${DAXCOW_BUILD_DIR:?}"
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT

for unit in "$DAXCOW_BUILD_DIR"/systemd/*.service "$DAXCOW_SOURCE_DIR"/fuse/systemd/*.{timer,mount}; do
  sed -E "s#=[^ ]*/(mount\.daxcow|daxcow) #=$DAXCOW_BIN_DIR/\1 #" "$unit" >"$work/$(basename "$unit")"
done
cd "$work" || exit 1
failures=0
grep -q "^ExecStart=$DAXCOW_BIN_DIR/mount.daxcow " daxcow@.service || { echo "FAILED: no ExecStart"; failures=1; }
for unit in daxcow@mnt-data.service daxcow-scrub@mnt-data.service daxcow-scrub@mnt-data.timer mnt-data.mount; do
  template=${unit/@*./@.}
  [[ -e $unit ]] || cp "$template" "$unit"
  # --man: whether the pages are installed is not the question.
  SYSTEMD_LOG_LEVEL=warning systemd-analyze verify --man=no "$work/$unit" >out 2>&1
  status=$?
  if ((status != 0)) || grep -q "$work" out; then
    echo "FAILED: $unit ($status): $(cat out)"
    failures=1
  fi
done
exit $failures
