# A pool on a real mount, for scripts: made, mounted, unmounted, checked, with the memory of its daemon watched. To be sourced.
#
#   pool_begin NAME [DIRECTORY]     makes $work in DIRECTORY, and has everything cleaned up at the end
#   pool_make SIZE [OPTIONS]        a new pool $pool, volume main mounted at $mnt
#   pool_unmount                    ends the mount and the daemon
#   pool_mount [OPTIONS]            mounts it again
#   pool_check                      unmounts; fsck.daxcow must find nothing
#   pool_end                        the same, and removes the pool
#   pool_peak_kib                   the most anonymous memory that the daemon was seen to have since pool_make

# Exits as skipped where nothing can be mounted.
pool_need_mounts() {
  ((EUID == 0)) || { echo "SKIPPED: mounting needs root"; exit 77; }
  [[ -c /dev/fuse ]] && { : <>/dev/fuse; } 2>/dev/null || { echo "SKIPPED: /dev/fuse cannot be opened"; exit 77; }
}

# Where the built programs are: DAXCOW_BIN_DIR, or the newest build below the repository.
pool_find_programs() {
  local repository=$1
  if [[ -z ${DAXCOW_BIN_DIR:-} ]]; then
    DAXCOW_BIN_DIR=$(ls -td "$repository"/build/*/bin 2>/dev/null | head -n 1)
    [[ -x $DAXCOW_BIN_DIR/mount.daxcow ]] || { echo "$0: build daxcow first (test/run does), or set DAXCOW_BIN_DIR" >&2; exit 2; }
  fi
  export DAXCOW_BIN_DIR PATH=$DAXCOW_BIN_DIR:$PATH
}

pool_begin() {
  local base=${2:-${DAXCOW_TEST_POOLS:-/dev/shm}}
  [[ -w $base ]] || base=${TMPDIR:-/tmp}
  work=$(mktemp -d "$base/daxcow-$1-XXXXXX") || exit 1
  chmod 755 "$work" # not root alone looks at the mount
  pool=$work/pool mnt=$work/mnt
  mkdir "$mnt"
  trap 'exit 130' INT TERM
  trap pool_cleanup EXIT
}

pool_cleanup() {
  cd /
  local point
  # The newest first: there may be mounts below mounts.
  for point in $(awk -v work="$work/" 'index($5, work) == 1 { print $5 }' /proc/self/mountinfo | tac); do
    umount "$point" 2>/dev/null || umount -l "$point"
  done
  pool_stop_watching
  [[ -f $pool ]] && flock -x -w 30 "$pool" true
  rm -rf "$work"
}

pool_make() {
  rm -f "$pool" "$pool".*
  mkfs.daxcow -q --size "$1" "$pool" || return
  : >"$work/peak"
  pool_mount "${2:-}"
}

pool_mount() {
  mount.daxcow "$pool" "$mnt" -o "volume=main${1:+,$1}" || return
  pool_watch "$(pool_daemon)"
}

pool_daemon() { daxcow stat --json "$pool" | sed -n 's/.*"process": *\([0-9]*\).*/\1/p' | head -n 1; }

# Keeps the largest RssAnon in $work/peak; the pool itself is mapped too, and not counted by that.
pool_watch() {
  local process=$1
  pool_stop_watching
  (
    peak=$(cat "$work/peak")
    while anonymous=$(awk '/^RssAnon/ { print $2 }' "/proc/$process/status" 2>/dev/null) && [[ -n $anonymous ]]; do
      if ((anonymous > ${peak:-0})); then
        peak=$anonymous
        echo "$peak" >"$work/peak"
      fi
      sleep 0.1
    done
  ) >/dev/null 2>&1 </dev/null &
  pool_watcher=$!
}
pool_stop_watching() {
  [[ -n ${pool_watcher:-} ]] || return 0
  kill "$pool_watcher" 2>/dev/null
  wait "$pool_watcher" 2>/dev/null
  pool_watcher=
}
pool_peak_kib() { cat "$work/peak"; }

pool_unmount() {
  local tries
  for ((tries = 0; tries < 50; ++tries)); do
    umount "$mnt" 2>/dev/null && break
    sleep 0.1 # somebody who was killed has not quite gone
  done
  if mountpoint -q "$mnt"; then umount "$mnt" || return; fi
  flock -x -w 60 "$pool" true || { echo "the daemon does not end" >&2; return 1; }
  pool_stop_watching
}

pool_check() {
  if mountpoint -q "$mnt"; then pool_unmount || return; fi
  fsck.daxcow -n "$pool" >"$work/fsck" 2>&1 && return
  cat "$work/fsck" >&2
  return 1
}

pool_end() {
  pool_check || return
  rm -f "$pool" "$pool".*
}
