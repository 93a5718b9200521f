#!/usr/bin/env bash
# Wrong input and bad conditions on real mounts: each gives one clear line on standard error and a conventional exit
# code, and loses nothing. mount.daxcow: 1 wrong usage or not root, 2 system error, 32 mount failure; daxcow and
# mkfs.daxcow: 1 and 2; fsck.daxcow: 8 and 16.
set -uo pipefail

. "$(dirname "$0")/fixture.bash" errors

mkdir mnt mnt2
works mkfs.daxcow -q --size 64M good.pool
touch file

# --- what is no pool -------------------------------------------------------------------------------------------------
refused 1 "16 MiB" mkfs.daxcow --size 8M small.pool
[[ ! -e small.pool ]] || fail "mkfs.daxcow left a pool that is too small"
truncate -s 8M small.pool
refused 1 "16 MiB|small" mkfs.daxcow small.pool
refused 32 "small" mount.daxcow small.pool mnt
truncate -s 64M zeros.pool
head -c 64M /dev/urandom >noise.pool
: >empty.pool
for pool in zeros noise empty; do
  refused 32 "$pool.pool" mount.daxcow $pool.pool mnt
  refused 8 "$pool.pool" fsck.daxcow $pool.pool
  refused 1 "$pool.pool" daxcow stat $pool.pool
done
refused 32 "no such file" mount.daxcow missing.pool mnt
refused 32 "director" mount.daxcow mnt2 mnt
refused 32 "null" mount.daxcow /dev/null mnt
refused 8 "no such file" fsck.daxcow missing.pool

# Another version: the major number is at byte 8 of both superblocks, a CRC32C of the first 4092 bytes at their end.
patch_version() {
  perl -e '
    use integer;
    sub crc32c {
      my $crc = 0xffffffff;
      for my $byte (unpack "C*", shift) {
        $crc ^= $byte;
        $crc = ($crc >> 1) ^ ($crc & 1 ? 0x82f63b78 : 0) for 1 .. 8;
      }
      return $crc;
    }
    open(my $pool, "+<", $ARGV[0]) or die "$ARGV[0]: $!\n";
    binmode $pool;
    for my $offset (0, -4096 + -s $pool) {
      sysseek($pool, $offset, 0);
      sysread($pool, my $block, 4096) == 4096 or die "cannot read a superblock\n";
      my $crc = unpack("V", substr($block, 4092));
      crc32c(substr($block, 0, 4092)) == $crc or die "the CRC of a superblock is computed in another way\n";
      substr($block, 8, 2) = pack("v", 9);
      substr($block, 4092) = pack("V", crc32c(substr($block, 0, 4092)));
      sysseek($pool, $offset, 0);
      syswrite($pool, $block) == 4096 or die "cannot write a superblock\n";
    }' "$1"
}
cp good.pool future.pool
if patch_version future.pool 2>err; then
  refused 32 "version|format 9" mount.daxcow future.pool mnt
  refused 8 "version|format 9" fsck.daxcow future.pool
  refused 1 "version|format 9" daxcow volume list future.pool
  refused 1 "pool already" mkfs.daxcow future.pool
else
  fail "$(cat err)"
fi

cp good.pool short.pool
truncate -s 40M short.pool
refused 32 "short.pool" mount.daxcow short.pool mnt
fsck.daxcow short.pool >out 2>&1 </dev/null
[[ $? == [48] ]] && grep -q "truncated" out || fail "fsck.daxcow of a truncated pool says $(cat out)"
truncate -s 6M short.pool
refused 32 "short.pool" mount.daxcow short.pool mnt
# One superblock is enough.
cp good.pool headless.pool
dd if=/dev/zero of=headless.pool bs=4096 count=1 conv=notrunc status=none
works mount.daxcow headless.pool mnt
works umount mnt
wait_for_end headless.pool
works fsck.daxcow headless.pool

# --- where and what to mount -----------------------------------------------------------------------------------------
refused 1 "DIRECTORY" mount.daxcow good.pool
refused 1 "unknown option" mount.daxcow good.pool mnt -o wrong
refused 1 "threads" mount.daxcow good.pool mnt -o threads=1
refused 1 "read_ahead=65M" mount.daxcow good.pool mnt -o read_ahead=65M
refused 32 "no such file" mount.daxcow good.pool nowhere
refused 32 "not a directory" mount.daxcow good.pool file
refused 32 "none" mount.daxcow good.pool mnt -o volume=none
refused 32 "not a daxcow mount" mount.daxcow -o remount,ro good.pool mnt
wait_for_end good.pool
works fsck.daxcow good.pool
refused 1 "root" "${as_nobody[@]}" mount.daxcow good.pool mnt
chmod 600 good.pool
refused 1 "permission" "${as_nobody[@]}" daxcow stat good.pool
refused 8 "permission" "${as_nobody[@]}" fsck.daxcow good.pool
refused 1 "permission" "${as_nobody[@]}" mkfs.daxcow --size 32M "$work/nobody.pool"

# Without /dev/fuse, in a mount namespace of its own.
hide_fuse='mkdir dev && mount -t tmpfs none dev && mkdir dev/shm && mount --bind /dev/shm dev/shm &&
  mount --move dev /dev && exec mount.daxcow good.pool mnt'
if unshare -m true 2>/dev/null; then
  refused 32 "/dev/fuse" unshare -m bash -c "$hide_fuse"
  wait_for_end good.pool
fi

# A file that may not be written: root can, unless it is immutable or its filesystem read-only.
if unshare -m true 2>/dev/null; then
  read_only='mkdir -p ro && mount --bind . ro && mount -o remount,bind,ro ro && exec mount.daxcow ro/good.pool mnt'
  refused 32 "read-only" unshare -m bash -c "$read_only"
  read_only_check='mount --bind . ro && mount -o remount,bind,ro ro && exec fsck.daxcow ro/good.pool'
  works unshare -m bash -c "$read_only_check"
fi

# --- in use ----------------------------------------------------------------------------------------------------------
works mount.daxcow good.pool mnt
echo kept >mnt/file
daemon=$(daemon_of good.pool)
kill -STOP "$daemon" # it answers nobody, but who asks for another pool has an answer
refused 1 "no such file" daxcow stat missing.pool
kill -CONT "$daemon"
refused 32 "mounted already" mount.daxcow good.pool mnt2
refused 32 "mounted already" mount.daxcow good.pool mnt2 -o ro
refused 32 "none" mount.daxcow good.pool mnt2 -o volume=none
refused 1 "busy|in use" mkfs.daxcow --force good.pool
refused 8 "busy|in use|mounted" fsck.daxcow good.pool
refused 32 "daemon already" mount.daxcow --foreground good.pool mnt2
refused 1 "mounted|busy" daxcow volume delete good.pool main
works daxcow snapshot --read-only good.pool main frozen
refused 32 "read-only" mount.daxcow good.pool mnt2 -o volume=frozen
refused 1 "already" daxcow snapshot good.pool main frozen
refused 1 "mounted|busy" daxcow volume rollback good.pool main frozen
refused 1 "permission" "${as_nobody[@]}" daxcow stat mnt
ln -s good.pool again.pool
refused 32 "mounted already" mount.daxcow again.pool mnt2
refused 1 "busy|in use" mkfs.daxcow --force again.pool
# From within a mount the same, by its path; a busy mount stays.
(cd mnt && refused 8 "busy|in use|mounted" fsck.daxcow ../good.pool) || true
exec 9<mnt/file
umount mnt 2>/dev/null && fail "a busy mount was unmounted"
exec 9<&-
[[ $(cat mnt/file) == kept ]] || fail "the mounted volume has changed"
works umount mnt
wait_for_end good.pool
works fsck.daxcow good.pool

# --- a dead daemon ---------------------------------------------------------------------------------------------------
works mount.daxcow good.pool mnt
kill -9 "$(daemon_of good.pool)"
wait_for_end good.pool
refused 32 "is gone.*umount -l $work/mnt " mount.daxcow good.pool mnt
works umount -l mnt
works mount.daxcow good.pool mnt
works ls -l mnt
kill -9 "$(daemon_of good.pool)"
wait_for_end good.pool
refused 1 "is gone.*umount -l $work/mnt .*fsck.daxcow $work/good.pool" daxcow stat mnt
refused 1 "is gone.*umount -l $work/mnt " daxcow map mnt/file
refused 1 "is gone.*umount -l $work/mnt " daxcow clone mnt/file mnt/other
refused 32 "is gone.*umount -l $work/mnt " mount.daxcow good.pool mnt
# Also when the kernel still knows the files, and when the pool has a new daemon.
works mount.daxcow good.pool mnt2
refused 1 "is gone.*umount -l $work/mnt " daxcow stat mnt
works umount mnt2
wait_for_end good.pool
umount mnt || umount -l mnt
works mount.daxcow good.pool mnt
[[ $(cat mnt/file) == kept ]] || fail "lost when the daemon was killed"
works umount mnt
wait_for_end good.pool
works fsck.daxcow good.pool

# --- a full pool -----------------------------------------------------------------------------------------------------
works mkfs.daxcow -q --size 32M full.pool
works mount.daxcow full.pool mnt
head -c 300000 /dev/urandom >sample
for ((i = 0; i < 20; ++i)); do cp sample mnt/early$i; done
expect_full() { # expect_full WHAT COMMAND...: the command fails for want of space
  local what=$1
  shift
  "$@" >out 2>err && fail "$what: worked in a full pool"
  grep -q "No space left" err || fail "$what: says $(head -n 1 err)"
}
expect_full "writing" dd if=/dev/zero of=mnt/fill bs=64k status=none
expect_full "writing small blocks" dd if=/dev/zero of=mnt/fill2 bs=4k status=none
make_names() { for ((i = 0; i < 200000; ++i)); do : >"mnt/many-$i" || return 1; done; }
make_names 2>err && fail "names without end fit into a full pool"
grep -q "No space left" err || fail "making names: says $(head -n 1 err)"
expect_full "allocating" fallocate -l 8M mnt/fill3
refused 1 "space" daxcow volume create full.pool another
for ((i = 0; i < 20; ++i)); do cmp sample mnt/early$i || fail "early$i is lost in the full pool"; done
[[ $(df --output=avail mnt | tail -n 1) -lt 1024 ]] || fail "df finds space in the full pool: $(df mnt)"
# Deleting works, a few names first, and gives space for others.
works rm mnt/many-0 mnt/early0
works bash -c 'rm mnt/fill && cp sample mnt/late && cmp sample mnt/late'
works bash -c 'find mnt -name "many-*" -delete'
works umount mnt
wait_for_end full.pool
works fsck.daxcow full.pool
works mount.daxcow full.pool mnt
for ((i = 1; i < 20; ++i)); do cmp sample mnt/early$i || fail "early$i is lost after the full pool"; done
works cmp sample mnt/late
works rm -r mnt/fill2
works daxcow settle full.pool
works dd if=/dev/zero of=mnt/large bs=1M count=12 status=none
works umount mnt
wait_for_end full.pool
works fsck.daxcow full.pool

# Full because a snapshot holds everything: overwriting needs space, deleting the snapshot gives it back.
works mkfs.daxcow -q --size 32M held.pool
works mount.daxcow held.pool mnt
works dd if=/dev/urandom of=mnt/data bs=1M count=12 status=none
works daxcow snapshot held.pool main keep
cp mnt/data held
expect_full "filling" dd if=/dev/zero of=mnt/fill bs=4k status=none
overwrite=(dd if=/dev/zero of=mnt/data bs=1M count=12 conv=notrunc,fsync status=none)
expect_full "overwriting what a snapshot holds" "${overwrite[@]}"
works mount.daxcow held.pool mnt2 -o volume=keep
cmp mnt2/data held || fail "the snapshot has changed in the full pool"
works umount mnt2
works daxcow volume delete held.pool keep
works rm mnt/fill
works daxcow settle held.pool
works "${overwrite[@]}"
works umount mnt
wait_for_end held.pool
works fsck.daxcow held.pool

finish
