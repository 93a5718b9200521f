# A pool on persistent memory, and what scenarios do to it and look at. To be sourced; $backing is ext4, xfs or devdax.
#
# $pool is the file or device, /m/VOLUME where volumes are mounted, /reference/NAME what files should contain.

check() { # check WHAT EXPECTED SEEN: a line of the table
  set -- "$1" "${2//$'\n'/ }" "${3//$'\n'/ }"
  report "@check $scenario|$1|$2|$3"
  [[ $2 == "$3" ]]
}

# wait_until COMMAND...: for at most 20 seconds (which are long in a guest).
wait_until() {
  local end=$((SECONDS + 20))
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.1
  done
}

# --- the pool and its mounts ---------------------------------------------------------------------------------------------

pool_create() {
  ndctl wait-scrub >/dev/null
  namespace=namespace0.0
  case $backing in
    devdax)
      ndctl create-namespace -f -e $namespace --mode=devdax --map=mem --align=4096 >/dev/null || return
      pool=/dev/dax0.0
      badblocks=/sys/bus/nd/devices/region0/badblocks
      # Where the data of the namespace begins in the region: the list is the whole region's.
      data_address=$(cat /sys/bus/nd/devices/dax0.[01]/resource 2>/dev/null | grep -v '^0x0$' | tail -n 1)
      mkfs.daxcow -q "$pool"
      ;;
    *)
      ndctl create-namespace -f -e $namespace --mode=fsdax --map=dev >/dev/null || return
      pool=/fs/pool
      badblocks=/sys/block/pmem0/badblocks
      data_address=$(cat /sys/bus/nd/devices/pfn0.[01]/resource 2>/dev/null | grep -v '^0x0$' | tail -n 1)
      case $backing in
        ext4) mke2fs -q -t ext4 -b 4096 /dev/pmem0 ;;
        xfs) mkfs.xfs -q -m reflink=0 /dev/pmem0 ;;
      esac || return
      mkdir /fs
      fs_mount || return
      mkfs.daxcow -q --size 96M "$pool"
      ;;
  esac || return
  mkdir -p /reference /m
  daemon_mount main || return
  daxcow volume create "$pool" second || return
  local kind
  kind=$(daxcow stat "$pool" | sed -n 's/^medium *\([a-z]*\),.*/\1/p; s/^bad blocks from *//p')
  scenario=setup check medium "$([[ $backing == devdax ]] && echo devdax || echo fsdax) $(realpath $badblocks)" "$kind"
}

fs_mount() { mount -t "$backing" -o dax=always /dev/pmem0 /fs; }

pool_destroy() {
  daemon_unmount
  mountpoint -q /fs && umount /fs
}

daemon_mount() { # VOLUME...
  local volume
  for volume; do
    mkdir -p "/m/$volume"
    mount.daxcow "$pool" "/m/$volume" -o "volume=$volume" || return
  done
  daemon=$(daxcow stat "$pool" | sed -n 's/^daemon *process //p')
}

daemon_unmount() {
  local volume
  for volume in $(ls /m); do
    if mountpoint -q "/m/$volume"; then wait_until umount "/m/$volume" || return; fi
  done
  # A umount returns before the daemon has ended.
  [[ -z $daemon ]] || wait_until daemon_has_ended
  daemon=
}
daemon_has_ended() { ! kill -0 "$daemon" 2>/dev/null; }
daemon_state() {
  if [[ $daemon ]] && kill -0 "$daemon" 2>/dev/null && daxcow stat /m/main >/dev/null; then echo alive; else echo dead; fi
}

# Everything that was mounted is unmounted, checked, and mounted again.
check_unmounted() {
  local volumes=() volume result=clean
  for volume in $(ls /m); do mountpoint -q "/m/$volume" && volumes+=("$volume"); done
  if daemon_unmount; then
    fsck.daxcow -n "$pool" >/tmp/fsck 2>&1 || { result="exit code $?"; cat /tmp/fsck; }
    daemon_mount "${volumes[@]}"
  else
    result="cannot be unmounted"
  fi
  check "fsck.daxcow" clean "$result"
}

# --- places --------------------------------------------------------------------------------------------------------------

# offset_of FILE PAGE: where in the pool this page of a file is.
offset_of() {
  daxcow map "$1" | awk -v at=$(($2 * 4096)) 'NR > 1 && $3 == "data" && $1 <= at && at < $1 + $2 { print $4 + at - $1 }'
}

# device_offset OFFSET: the same, in the namespace's data.
device_offset() {
  if [[ $backing == devdax ]]; then
    echo "$1"
  else
    filefrag -v -b512 "$pool" | awk -v at=$(($1 / 512)) '
      $1 ~ /^[0-9]+:$/ { gsub(/\.\.|:/, " "); if ($2 <= at && at <= $3) print ($4 + at - $2) * 512 }'
  fi
}

pool_bytes() { daxcow stat --json "$pool" | sed -n 's/^  "size_bytes": \([0-9]*\).*/\1/p'; }

# use_of OFFSET: "free", "data", "metadata inodes", ...
use_of() { daxcow owners "$pool" "$1" | sed -n '1s/^[^:]*: \([^,]*\),.*/\1/p'; }
owners_of() { daxcow owners "$pool" "$1" | awk 'NR > 2 { print $1 $2 "@" $3 / 4096 }' | sorted; }
# How many blocks the ledger has.
ledger() { daxcow poison list "$pool" | awk '$1 ~ /^[0-9]+$/' | wc -l; }

# The first free block from OFFSET on.
free_offset() {
  local offset=$1
  until [[ $(use_of "$offset") == free ]]; do offset=$((offset + 4096)); done
  echo "$offset"
}

free_blocks() { stat -f -c %f /m/main; }

# --- poison --------------------------------------------------------------------------------------------------------------

# inject OFFSET [SECTORS] [ndctl's options]: by the distribution's ndctl, which waits until the scrub that it starts has ended.
inject() {
  local sector
  sector=$(($(device_offset "$1") / 512))
  ndctl inject-error --block=$sector --count="${2:-8}" "${@:3}" $namespace >/dev/null
}

# inject_all OFFSET+SECTORS...: several at a time, for ndctl waits for five seconds.
inject_all() {
  local one processes=()
  for one; do
    inject "${one%+*}" "${one#*+}" &
    processes+=($!)
  done
  wait "${processes[@]}"
}

# machine_check OFFSET: asks the host to raise one. Returns when the kernel lists the block.
machine_check() {
  local before
  before=$(cat $badblocks)
  report "$(printf '@mce %#x' $((data_address + $(device_offset "$1"))))"
  wait_until list_differs "$before"
}
list_differs() { [[ $(cat $badblocks) != "$1" ]]; }
list_is_empty() { [[ -z $(cat $badblocks) ]]; }
kernel_list() { if wait_until list_is_empty; then echo empty; else echo $(cat $badblocks); fi; }

# --- files ---------------------------------------------------------------------------------------------------------------

sorted() { sort | tr '\n' ' ' | sed 's/ $//'; }

# make_file NAME SEED PAGES: in volume main, with its reference.
make_file() {
  mkdir -p "$(dirname "/reference/$1")"
  # Every page differs from every other, and from those of other seeds.
  awk -v seed="$2" -v lines=$(($3 * 64)) 'BEGIN { for (i = 0; i < lines; ++i) printf "%-63s\n", seed " " i }' >"/reference/$1"
  cp "/reference/$1" "/m/main/$1"
}

# Files of which the first are shared by two volumes and a snapshot, and others that have nothing to do with them.
#   original, clone (cp), second's copy (daxcow clone), and in the snapshot original and clone: the same blocks
#   partner: shares all of them but page 5;  alone: shared with nobody;  bystander: neither
make_files() {
  local number=$1
  make_file original "$number" 16
  make_file bystander "b$number" 16
  cp --reflink=auto /m/main/original /m/main/clone
  cp --reflink=auto /m/main/original /m/main/partner
  make_file replaced "r$number" 16
  dd if=/reference/replaced of=/m/main/partner bs=4096 skip=5 seek=5 count=1 conv=notrunc status=none
  cp /reference/original /reference/clone
  cp /reference/original /reference/partner
  dd if=/reference/replaced of=/reference/partner bs=4096 skip=5 seek=5 count=1 conv=notrunc status=none
  mountpoint -q /m/second || daemon_mount second
  daxcow clone /m/main/original /m/second/copy
  cp /reference/original /reference/copy
  daxcow snapshot "$pool" main before
  daemon_mount before
  make_file alone "a$number" 16
  all_files=(main/original main/clone main/partner main/alone main/bystander second/copy before/original before/clone before/partner
    before/bystander)
  sync
  drop_caches
}
remove_files() {
  rm -rf /m/main/* /m/second/*
  umount /m/before && daxcow volume delete "$pool" before
  rmdir /m/before
}

# With nothing of them in the page cache, a lost page cannot be had from there.
drop_caches() { echo 3 >/proc/sys/vm/drop_caches; }

# The pages of all files that cannot be read or are wrong: "main/original@5:EIO+SIGBUS ...".
damage() {
  local file result
  for file in "${all_files[@]}"; do
    [[ -e /m/$file ]] || continue
    result=$(daxcow_pages check "/m/$file" "/reference/${file#*/}" 2>&1)
    for result in $result; do echo "$file@$result"; done
  done | sorted
}

# --- who is told ---------------------------------------------------------------------------------------------------------

events_begin() { first_event=$(daxcow events --json "$pool" | sed -n '$s/.*"sequence":\([0-9]*\).*/\1/p'); }
# events KIND: a line "BLOCK VOLUME PATH OFFSET LENGTH" for each since. (Of the JSON, as awk can read it: no text of ours has
# quotation marks or blanks in it.)
events() {
  daxcow events --json --after "${first_event:-0}" "$pool" | awk -v kind="$1" '
    function field(name) {
      match($0, "\"" name "\":\"?[^\",}]*")
      return substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3)
    }
    field("kind") == "\"" kind {
      print field("block"), substr(field("volume"), 2), substr(field("path"), 2), field("offset_bytes"), field("length_bytes")
    }'
}
count_events() { events "$1" | wc -l; }
has_events() { (($(count_events "$1") >= ${2:-1})); }
# blocks_of KIND: the blocks that events of this kind are about. The kernel's list may come back once more after a block was
# cleared, when a scrub that began before ends after it; so an event may come twice.
blocks_of() { events "$1" | awk '{ print $1 }' | sort -nu | tr '\n' ' ' | sed 's/ $//'; }
# Who was told of which sectors: "main/original@40+1 ...". The kernel lengthens its list step by step, so what touches is one.
told() {
  events data-lost | sort -k2,3 -k4n | awk '
    { if (($2 $3) == file && $4 == end) end += $5; else { flush(); file = $2 $3; start = $4; end = $4 + $5 } }
    function flush() { if (file != "") print file "@" start / 512 "+" (end - start) / 512 }
    END { flush() }' | sorted
}
lost_sectors() { events data-lost | awk '{ sum += $5 } END { print sum / 512 + 0 }'; }
# wait_for_loss SECTORS: until that much is known to be lost, and handled.
wait_for_loss() {
  wait_until has_lost "$1"
  settle
}
has_lost() { (($(lost_sectors) >= $1)); }
nobody_told_of_loss() { check "told of a loss" "" "$(told)"; }

# hold FILE...: a process for each that maps it, without looking at its pages.
hold() {
  local file output
  for file; do
    output=/tmp/holder-${file//\//-}
    daxcow_pages hold "/m/$file" >"$output" &
    holders+=("$! $file $output")
    wait_until grep -qs mapped "$output"
  done
}
# Which of them were sent a signal (again, if more of a page was lost): "main/original@5 ...".
signalled() {
  local holder
  for holder in "${holders[@]}"; do
    set -- $holder
    sed -n "s#^SIGBUS page \([0-9]*\) .* bits 12#$2@\1#p" "$3"
  done | sort -u | sorted
}
release_holders() {
  local holder
  for holder in "${holders[@]}"; do
    set -- $holder
    kill -9 "$1" && wait "$1"
    rm -f "$3"
  done 2>/dev/null
  holders=()
}

settle() { daxcow settle "$pool" >/dev/null; }

# What every scenario ends with.
scenario_end() {
  release_holders
  check daemon alive "$(daemon_state)" || { dmesg | tail -n 30; daemon_mount main second; }
  check_unmounted
}
