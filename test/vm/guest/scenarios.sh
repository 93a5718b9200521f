# What is done to a pool on persistent memory, one function a scenario. To be sourced, after pool.sh.
#
# The places of pool blocks that have no owner among files are those of engine/format.h.
block_bytes=4096
journal_block=512
journal_mirror=$((journal_block + 256))
first_chunk=1024

# rewrite FILE PAGE [PAGES]: overwrites pages with what the reference says they contained.
rewrite() {
  dd if="/reference/${1#*/}" of="/m/$1" bs=4096 skip="$2" seek="$2" count="${3:-1}" conv=notrunc status=none
}
# lost_sectors_of FILE PAGE: those that reads past the page cache, one by one, do not get as they were.
lost_sectors_of() {
  local sector lost=()
  for ((sector = $2 * 8; sector < ($2 + 1) * 8; ++sector)); do
    cmp -s <(dd if="/m/$1" bs=512 skip=$sector count=1 iflag=direct status=none 2>/dev/null) \
      <(dd if="/reference/${1#*/}" bs=512 skip=$sector count=1 status=none) || lost+=($sector)
  done
  echo "${lost[*]}"
}
# rescue FILE: what `daxcow rescue` could not copy, "OFFSET+LENGTH ..."; all else must be right in the copy.
rescue() {
  local offset length state lost=()
  daxcow rescue "/m/$1" /tmp/rescued >/dev/null 2>&1
  while read -r offset length state; do
    [[ $state == - ]] || continue
    lost+=($((offset))+$((length)))
    dd if="/reference/${1#*/}" of=/tmp/rescued bs=512 skip=$((offset / 512)) seek=$((offset / 512)) count=$((length / 512)) \
      conv=notrunc status=none
  done < <(sed '/^#/d' /tmp/rescued.map)
  cmp -s /tmp/rescued "/reference/${1#*/}" && echo "${lost[*]}" || echo wrong
  rm -f /tmp/rescued /tmp/rescued.map
}
punch() { fallocate --punch-hole --offset $(($2 * 4096)) --length 4096 "/m/$1"; }

# Nothing is bad any more, for the kernel and for daxcow, and these pool offsets are in use again.
check_healed() {
  local offset uses=
  settle
  check "kernel's list" empty "$(kernel_list)"
  check "ledger" 0 "$(ledger)"
  for offset; do uses+=" $(use_of "$offset")"; done
  check "blocks" "$(for offset; do printf ' free'; done)" "$uses"
}

# Data that files of two volumes and a snapshot share; each owner heals in its own way.
scenario_shared() {
  local offset free owners="before/clone before/original main/clone main/original second/copy"
  make_files shared
  hold main/original main/clone second/copy before/original main/bystander main/partner
  offset=$(offset_of /m/main/original 5)
  free=$(free_blocks)
  check owners "$(for file in $owners; do echo "$file@5"; done | sorted)" "$(owners_of "$offset")"
  events_begin
  inject "$offset" 1
  wait_for_loss 5
  check told "$(for file in $owners; do echo "$file@40+1"; done | sorted)" "$(told)"
  check signalled "before/original@5 main/clone@5 main/original@5 second/copy@5" "$(signalled)"
  check damage "$(for file in $owners; do echo "$file@5:EIO+SIGBUS"; done | sorted)" "$(damage)"
  release_holders
  rewrite main/original 5
  punch main/clone 5
  dd if=/dev/zero of=/reference/clone bs=4096 seek=5 count=1 conv=notrunc status=none
  check "damage after two have healed" "before/clone@5:EIO+SIGBUS before/original@5:EIO+SIGBUS second/copy@5:EIO+SIGBUS" "$(damage)"
  rm /m/second/copy /m/before/clone
  check "still listed" yes "$(list_is_empty && echo no || echo yes)"
  truncate -s 16384 /m/before/original
  cp /reference/original /tmp/original
  truncate -s 16384 /reference/original
  check_healed "$offset"
  check "free blocks gained" 0 "$(($(free_blocks) - free))"
  cp /tmp/original /reference/original
  rm /m/before/original
  check damage "" "$(damage)"
  remove_files
}

# Data of one file, and of it a single sector. Its neighbours in the filesystem that holds the pool survive.
scenario_single() {
  local offset
  make_files single
  hold main/alone main/original main/bystander
  offset=$(offset_of /m/main/alone 7)
  events_begin
  inject $((offset + 1024)) 1
  wait_for_loss 1
  check told "main/alone@58+1" "$(told)"
  check signalled "main/alone@7" "$(signalled)"
  check damage "main/alone@7:EIO+SIGBUS" "$(damage)"
  # (On devdax too, as long as the kernel has not taken the page away after a machine check.)
  check "sectors that cannot be read" 58 "$(lost_sectors_of main/alone 7)"
  check "what a rescue leaves out" 29696+512 "$(rescue main/alone)"
  rewrite main/alone 7
  check "damage after it has healed" "" "$(damage)"
  check_healed "$offset"
  remove_files
}

# The same data, but the kernel has cached the page of an owner: all owners get it back, and nobody has lost anything.
scenario_rescue() {
  local offset
  make_files rescue
  offset=$(offset_of /m/main/original 5)
  dd if=/m/second/copy of=/dev/null bs=4096 status=none
  hold main/original main/clone second/copy before/original
  events_begin
  inject "$offset" 4
  wait_until has_events data-rescued
  settle
  nobody_told_of_loss
  check signalled "" "$(signalled)"
  drop_caches
  check damage "" "$(damage)"
  check_healed "$offset"
  remove_files
}

scenario_free() {
  local offset
  make_files free
  hold main/original main/bystander
  offset=$(free_offset $((48 << 20)))
  events_begin
  inject "$offset" 3
  wait_until has_events block-cleared
  nobody_told_of_loss
  check cleared $((offset / 4096)) "$(blocks_of block-cleared)"
  check signalled "" "$(signalled)"
  check damage "" "$(damage)"
  check_healed "$offset"
  remove_files
}

# One block of each kind of metadata, first of the primary, then of the mirror.
scenario_metadata() {
  local kind kinds block mirror orphan
  local -A places=()
  make_files metadata
  mkdir /m/main/directory
  touch /m/main/directory/{1..40}
  ln -s "$(printf 'target%.0s' {1..60})" /m/main/symlink
  setfattr -n user.large -v "$(head -c 3000 /dev/zero | tr '\0' x)" /m/main/directory/7
  # Scattered extents make nodes; a file that is open has no name.
  for block in {0..60..2}; do rewrite_scattered $block; done
  exec {orphan}<>/m/main/orphan
  rm /m/main/orphan
  settle
  kinds="attributes directory inodes map-node orphans reverse-map roots symlink"
  for ((block = first_chunk + 1; block < first_chunk + 256 && ${#places[@]} < 8; ++block)); do
    kind=$(use_of $((block * block_bytes)))
    kind=${kind#metadata}
    kind=${kind# }
    [[ $kind == unused ]] || places[${kind// /-}]=$block
  done
  check kinds "$kinds" "$(printf '%s\n' "${!places[@]}" | sorted)"
  places[header]=$first_chunk
  places[unused]=$((first_chunk + 250))
  for mirror in 0 256; do
    events_begin
    inject_all $(for kind in "${!places[@]}"; do echo "$(((places[$kind] + mirror) * block_bytes))+8"; done)
    wait_until has_events poison-found ${#places[@]}
    settle
    what_was_mended >/tmp/mended
    for kind in "${!places[@]}"; do
      block=$((places[$kind] + mirror))
      check "$kind$( ((mirror)) && echo ', mirror')" "$([[ $kind == unused ]] && echo block-cleared || echo metadata-repaired)" \
        "$(sed -n "s/^$block //p" /tmp/mended)"
    done
    nobody_told_of_loss
    check "entries" 40 "$(ls /m/main/directory | wc -l)"
    check "attribute" 3000 "$(getfattr --only-values -n user.large /m/main/directory/7 2>/dev/null | wc -c)"
    check "kernel's list" empty "$(kernel_list)"
    drop_caches
    check damage "" "$(damage)"
  done
  exec {orphan}>&-
  remove_files
}
rewrite_scattered() { dd if=/reference/original of=/m/main/scattered bs=4096 seek=$(($1 * 700)) count=1 conv=notrunc status=none; }
# What was said of blocks, besides that they were found: lines "BLOCK KIND".
what_was_mended() {
  local kind
  for kind in metadata-repaired metadata-lost block-cleared clear-failed; do
    events $kind | awk -v kind=$kind '{ print $1, kind }'
  done | sort -u
}

# The journal's header and its first blocks, in one copy and then in the other, while files change.
scenario_journal() {
  local copy
  make_files journal
  for copy in $journal_block $journal_mirror; do
    events_begin
    inject $((copy * block_bytes)) 24 &
    for number in {1..200}; do echo "$number" >/m/main/changing; done
    wait $!
    wait_until has_events poison-found
    settle
    nobody_told_of_loss
    check "repaired" yes "$(has_events metadata-repaired && echo yes)"
    check "kernel's list" empty "$(kernel_list)"
    check "changes" 200 "$(cat /m/main/changing)"
    check damage "" "$(damage)"
  done
  remove_files
}

scenario_superblock() {
  local offset
  make_files superblock
  for offset in 0 $(($(pool_bytes) - block_bytes)); do
    events_begin
    inject "$offset" 8
    wait_until has_events metadata-repaired
    nobody_told_of_loss
    check "repaired at $(((offset > 0)))" $((offset / 4096)) "$(blocks_of metadata-repaired)"
    check "kernel's list" empty "$(kernel_list)"
    check "damage" "" "$(damage)"
    check_unmounted
  done
  remove_files
}

# Blocks of several files, of free space and of metadata at once; one of them over four pages, one at its edge.
scenario_several() {
  local shared alone free
  make_files several
  hold main/original main/alone main/bystander
  shared=$(offset_of /m/main/original 2)
  alone=$(offset_of /m/main/alone 15)
  free=$(free_offset $((60 << 20)))
  events_begin
  # Of the shared pages the last sector of 2, 3 to 5, and the first of 6.
  inject_all $((shared + 7 * 512))+26 "$alone+8" "$free+16" $(((first_chunk + 1) * block_bytes))+8
  wait_for_loss 174
  check told "$({
    for file in before/clone before/original main/clone main/original second/copy; do echo "$file@23+26"; done
    for file in main/partner before/partner; do printf '%s\n' "$file@23+17" "$file@48+1"; done
    echo main/alone@120+8
  } | sorted)" "$(told)"
  check signalled "main/alone@15 main/original" "$(signalled | sed 's/\(original\)@[2-6].*/\1/')"
  check damage "$(for file in before/clone before/original main/clone main/original second/copy main/partner before/partner; do
    for page in 2 3 4 5 6; do
      [[ $file == */partner && $page == 5 ]] || echo "$file@$page:EIO+SIGBUS"
    done
  done | sed '$a main/alone@15:EIO+SIGBUS' | sorted)" "$(damage)"
  check "kernel still lists" "data only" "$([[ $(use_of "$free") == free ]] && echo data only)"
  release_holders
  # All owners go but two, which heal.
  rewrite main/original 2 5
  rewrite main/alone 15
  umount /m/before && daxcow volume delete "$pool" before
  rm /m/main/{clone,partner} /m/second/copy
  check_healed "$shared" $((shared + 3 * 4096)) "$alone" "$free"
  check "damage after healing" "" "$(damage)"
  rm -rf /m/main/* /m/before
}

# Poison that the device does not tell of, until it scrubs itself.
scenario_latent() {
  local offset
  make_files latent
  hold main/alone main/bystander
  offset=$(offset_of /m/main/alone 3)
  events_begin
  inject "$offset" 8 --no-notify
  settle
  check "not known" "" "$(told)$(cat $badblocks)"
  ndctl start-scrub >/dev/null
  ndctl wait-scrub >/dev/null
  wait_for_loss 8
  check told "main/alone@24+8" "$(told)"
  check signalled "main/alone@3" "$(signalled)"
  check damage "main/alone@3:EIO+SIGBUS" "$(damage)"
  rm /m/main/alone
  release_holders
  check_healed "$offset"
  remove_files
}

# A machine check that the hardware's own scrubbing raises, on data that a process maps.
scenario_machine_check_mapped() {
  local offset
  make_files mapped
  hold main/original main/bystander
  offset=$(offset_of /m/main/alone 4)
  hold main/alone
  events_begin
  machine_check "$offset"
  wait_for_loss 8
  check told "main/alone@32+8" "$(told)"
  check signalled "main/alone@4" "$(signalled)"
  check damage "main/alone@4:EIO+SIGBUS" "$(damage)"
  rewrite main/alone 4
  check_healed "$offset"
  check "damage after it has healed" "" "$(damage)"
  remove_files
}

# The same for latent poison, while the daemon reads the block all the time: for programs, and for `daxcow scrub`. (Memory of
# a guest does not fault by itself: the machine check stands for the first read of it.) The machine check takes the page away below the daemon, so reads meet that before the daemon knows why. (A check for which action is required, raised
# from outside, would mostly hit the kernel in the middle of something else, which is the end of it.)
scenario_machine_check_reading() {
  local offset readers=()
  make_files read
  hold main/bystander
  offset=$(offset_of /m/main/alone 6)
  hold main/alone
  events_begin
  inject "$offset" 8 --no-notify
  check "not known" "" "$(told)$(cat $badblocks)"
  touch /tmp/reading
  while [[ -e /tmp/reading ]]; do dd if=/m/main/alone of=/dev/null bs=64K iflag=direct status=none; done 2>/dev/null &
  readers+=($!)
  while [[ -e /tmp/reading ]]; do daxcow scrub "$pool" >/tmp/scrub 2>&1; done &
  readers+=($!)
  sleep 1
  machine_check "$offset"
  wait_for_loss 8
  rm /tmp/reading
  wait "${readers[@]}"
  check told "main/alone@48+8" "$(told)"
  check signalled "main/alone@6" "$(signalled)"
  check damage "main/alone@6:EIO+SIGBUS" "$(damage)"
  rewrite main/alone 6
  check_healed "$offset"
  check "damage after it has healed" "" "$(damage)"
  remove_files
}

# The daemon ends, by a signal, while there is poison, and is started again.
scenario_restart() {
  local offset
  make_files restart
  offset=$(offset_of /m/main/original 8)
  events_begin
  inject "$offset" 2
  wait_for_loss 14
  kill -TERM "$daemon"
  wait_until daemon_has_ended
  daemon=
  check "fsck.daxcow" clean "$(fsck.daxcow -n "$pool" >/tmp/fsck 2>&1 && echo clean || cat /tmp/fsck)"
  daemon_mount main second before
  settle
  check ledger "$((offset / 4096))" "$(daxcow poison list "$pool" | awk '$1 ~ /^[0-9]+$/ { print $1 }')"
  check damage "$(for file in before/clone before/original before/partner main/clone main/original main/partner second/copy; do
    echo "$file@8:EIO+SIGBUS"
  done | sorted)" "$(damage)"
  # The loss is known: nobody is told again.
  check "told again" "" "$(events_begin; told)"
  rewrite main/original 8
  rm /m/main/{clone,partner} /m/second/copy /m/before/*
  check_healed "$offset"
  check "damage after healing" "" "$(damage)"
  remove_files
}

# Poison that came while the pool was not mounted: in data, metadata and free space.
scenario_unmounted() {
  local alone free
  make_files unmounted
  alone=$(offset_of /m/main/alone 0)
  free=$(free_offset $((50 << 20)))
  daemon_unmount
  inject_all "$alone+8" "$free+8" $(((first_chunk + 1) * block_bytes))+8 0+8
  first_event=0
  daemon_mount main second before
  wait_for_loss 8
  check told "main/alone@0+8" "$(told)"
  check "repaired" "0 $((first_chunk + 1))" "$(blocks_of metadata-repaired)"
  check cleared $((free / 4096)) "$(blocks_of block-cleared)"
  check damage "main/alone@0:EIO+SIGBUS" "$(damage)"
  rewrite main/alone 0
  check_healed "$alone" "$free"
  check "damage after healing" "" "$(damage)"
  remove_files
}

# The namespace goes away under the mounted pool, for a devdax: nothing that is asked of the daemon meanwhile may end it, hang
# or keep a processor busy; when it is back, everything is as it was, and bad blocks are noticed again. A namespace with a
# mounted filesystem ndctl does not disable (and the kernel would not survive it).
scenario_namespace() {
  local ticks offset
  make_files namespace
  if [[ $backing == devdax ]]; then
    ndctl disable-namespace $namespace >/dev/null
    check "disabled" yes "$([[ -e $pool ]] && echo no || echo yes)"
    timeout -s KILL 20 daxcow_pages check /m/main/alone /reference/alone >/tmp/pages
    check "reads end" yes "$( (($? != 137)) && echo yes)"
    sleep 1
    ticks=$(daemon_ticks)
    sleep 3
    check "idle" yes "$(ticks=$(($(daemon_ticks) - ticks)); ((ticks < 50)) && echo yes || echo "$ticks ticks")"
    check "daemon" alive "$(kill -0 "$daemon" && echo alive || echo dead)"
    daemon_unmount
    ndctl enable-namespace $namespace >/dev/null
    wait_until test -e $pool
    check "fsck.daxcow" clean "$(fsck.daxcow -n "$pool" >/tmp/fsck 2>&1 && echo clean || cat /tmp/fsck)"
    daemon_mount main second before
  else
    check "disabled" no "$(ndctl disable-namespace $namespace >/dev/null 2>&1 && echo yes || echo no)"
    daemon_unmount
    umount /fs
    ndctl disable-namespace $namespace >/dev/null
    ndctl enable-namespace $namespace >/dev/null
    wait_until fs_mount
    daemon_mount main second before
  fi
  drop_caches
  check damage "" "$(damage)"
  drop_caches
  offset=$(offset_of /m/main/alone 1)
  events_begin
  inject "$offset" 8
  wait_for_loss 8
  check told "main/alone@8+8" "$(told)"
  rewrite main/alone 1
  check_healed "$offset"
  remove_files
}
daemon_ticks() { awk '{ print $14 + $15 }' "/proc/$daemon/stat"; }
