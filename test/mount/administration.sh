#!/usr/bin/env bash
# Mounts as administrators make them: by mount(8), from fstab, with the options of every filesystem, remounted, busy, lazily
# unmounted, and in mount namespaces.
#
# In a mount namespace of its own, where this build is mount(8)'s helper and /etc/fstab is the test's.
set -uo pipefail

if [[ -z ${DAXCOW_OWN_NAMESPACE:-} ]]; then
  ((EUID != 0)) || unshare -m true 2>/dev/null || { echo "SKIPPED: no mount namespace can be made here"; exit 77; }
  ((EUID != 0)) || DAXCOW_OWN_NAMESPACE=1 exec unshare -m bash "$(readlink -f "$0")"
fi
. "$(dirname "$0")/fixture.bash" administration

mkdir mnt mnt2 'mnt with blanks' helpers
pool=$work/main.pool
works mkfs.daxcow -q --size 64M "$pool"
for tool in mount fsck; do ln -s "$DAXCOW_BIN_DIR/$tool.daxcow" "helpers/$tool.fuse.daxcow"; done
sbin=$(readlink -f /sbin)
if ! mount -t overlay -o lowerdir="$work/helpers:$sbin" overlay "$sbin" 2>/dev/null; then
  echo "SKIPPED: the helper of mount(8) cannot be put in its place here"
  exit 77
fi
[[ -e /etc/fstab ]] || : >/etc/fstab
: >fstab
mount --bind fstab /etc/fstab

options_of() { findmnt -n -o OPTIONS --mountpoint "$1"; }
has_option() { [[ ,$(options_of "$1"), == *,$2,* ]]; }
# unmounts DIRECTORY...: and waits for the daemon.
unmounts() {
  works umount "$@"
  wait_for_end "$pool"
}

# --- reading ahead ----------------------------------------------------------------------------------------------------
read_ahead_of() { cat "/sys/class/bdi/$(mountpoint -d "$1")/read_ahead_kb"; }
if [[ -w /sys/class/bdi ]]; then
  for size in 256: 1024:read_ahead=1M 0:read_ahead=0; do
    works mount.daxcow "$pool" mnt -o "${size#*:}"
    [[ $(read_ahead_of mnt) == "${size%%:*}" ]] || fail "read_ahead_kb is $(read_ahead_of mnt) for '$size'"
    unmounts mnt
  done
fi

# --- requests by io_uring, or a word why not ---------------------------------------------------------------------------
works mount.daxcow "$pool" mnt -o io_uring
echo "by rings" >mnt/file && [[ $(cat mnt/file) == "by rings" ]] || fail "a mount with io_uring does not work"
if grep -q fuse-ring "/proc/$(daemon_of "$pool")"/task/*/comm; then
  [[ ! -s err ]] || fail "the mount with io_uring says $(cat err)"
else
  grep -q "note: io_uring is left out: " err || fail "io_uring is left out, silently"
  [[ -z ${FUSE_URING_ENABLE:-} ]] || fail "these tests should be by rings: $(cat err)"
fi
unmounts mnt
for unfit in writeback_cache max_write=64K; do # with which the kernel would leave requests hanging
  works mount.daxcow "$pool" mnt -o io_uring,$unfit
  grep -q "note: io_uring is left out: " err || fail "io_uring is taken with $unfit"
  grep -q fuse-ring "/proc/$(daemon_of "$pool")"/task/*/comm && fail "rings are there with $unfit"
  unmounts mnt
done

# --- fstab -----------------------------------------------------------------------------------------------------------
cat >fstab <<END
$pool $work/mnt fuse.daxcow volume=main,defaults,noauto,nofail,_netdev,users,noexec,noatime,x-systemd.idle-timeout=9,comment=x 0 2
$pool $work/mnt\040with\040blanks fuse.daxcow volume=other,nodev,ro 0 0
END
works mount mnt
for option in rw nosuid nodev noexec noatime; do has_option mnt $option || fail "fstab: no $option: $(options_of mnt)"; done
works daxcow volume create "$pool" other
works mount -a -t fuse.daxcow # not what is noauto, not what is mounted
works mount -a -t fuse.daxcow
has_option "mnt with blanks" ro || fail "fstab: not ro: $(options_of "mnt with blanks")"
[[ $(grep -c "$pool" /proc/self/mountinfo) == 2 ]] || fail "fstab: $(grep "$pool" /proc/self/mountinfo)"
fails "already mounted|mounted already" mount mnt
works mount -o remount,exec,suid mnt
! has_option mnt noexec && has_option mnt nodev || fail "fstab: remounted with $(options_of mnt)"
works umount mnt "mnt with blanks"
wait_for_end "$pool"
works fsck -T -A -t fuse.daxcow
# user and users: mount(8) lets everybody, but only root can mount. That is said.
fails "mount.daxcow: .*only root" "${as_nobody[@]}" mount mnt
works mount --fake -t fuse.daxcow "$pool" mnt
! mountpoint -q mnt || fail "--fake has mounted"

# --- what every filesystem has ---------------------------------------------------------------------------------------
works mount -t fuse.daxcow "$pool" mnt
cp /bin/true mnt/program
cp /usr/bin/id mnt/identity
chmod 4755 mnt/identity
chmod 755 mnt
mknod -m 666 mnt/null c 1 3
works mnt/program
works dd if=/dev/zero of=mnt/null bs=1 count=1 status=none
[[ $("${as_nobody[@]}" mnt/identity -u) == 0 ]] || fail "set-uid programs do not work"
works mount -o remount,nosuid,nodev,noexec mnt
fails "permission" mnt/program
fails "permission" dd if=/dev/zero of=mnt/null bs=1 count=1 status=none
works mount -o remount,exec mnt
[[ $("${as_nobody[@]}" mnt/identity -u) == 65534 ]] || fail "set-uid programs work in spite of nosuid"
# Everybody may use it, as the files' permissions say; with noallow_other only root.
mkdir -m 777 mnt/shared
mkdir -m 700 mnt/private
works "${as_nobody[@]}" dd if=/dev/zero of=mnt/shared/file bs=1 count=1 status=none
fails "permission" "${as_nobody[@]}" dd if=/dev/zero of=mnt/private/file bs=1 count=1 status=none
[[ $(stat -c %u mnt/shared/file) == 65534 ]] || fail "the file of nobody belongs to $(stat -c %u mnt/shared/file)"
works "${as_nobody[@]}" umount mnt # fstab says users
works mount -t fuse.daxcow "$pool" mnt2
fails "superuser|not permitted" "${as_nobody[@]}" umount mnt2
unmounts mnt2
works mount -t fuse.daxcow -o noallow_other "$pool" mnt
fails "permission" "${as_nobody[@]}" ls mnt/shared
works ls mnt/shared
unmounts mnt

# --- remount,ro and back ---------------------------------------------------------------------------------------------
# 'touch -d' sets times of the past; a read or an overwrite that the daemon sees moves them.
works mount -t fuse.daxcow -o strictatime,no_keep_cache "$pool" mnt
head -c 8192 /dev/urandom >mnt/file
exec 9>>mnt/file
fails "busy" mount -o remount,ro mnt # somebody may write
exec 9>&-
touch -d '2001-01-01' mnt/file
sleep 0.1
dd if=/dev/zero of=mnt/file bs=4096 count=1 conv=notrunc status=none # its time is committed lazily
changed=$(stat -c %Y.%y mnt/file)
works mount -o remount,ro mnt
has_option mnt ro || fail "remount,ro: $(options_of mnt)"
for command in "touch mnt/file" "touch mnt/new" "mkdir mnt/d" "rm mnt/file" "mv mnt/file mnt/g" "ln mnt/file mnt/g" \
  "truncate -s 0 mnt/file" "chmod 600 mnt/file" "chown 1 mnt/file" "mknod mnt/p p" "ln -s a mnt/l" "rmdir mnt/shared" \
  "setfattr -n user.x -v y mnt/file" "dd if=/dev/zero of=mnt/file count=1 conv=notrunc" "fallocate -l 1M mnt/file"; do
  fails "read-only file system" $command
done
accessed=$(stat -c %X.%x mnt/file)
cat mnt/file >/dev/null
[[ $(stat -c %X.%x mnt/file) == "$accessed" ]] || fail "reading a mount that is read-only has moved an access time"
kill -9 "$(daemon_of "$pool")" # what remount,ro has not committed is lost now
wait_for_end "$pool"
umount mnt
works mount -t fuse.daxcow "$pool" mnt
[[ $(stat -c %Y.%y mnt/file) == "$changed" ]] || fail "remount,ro has not committed: $(stat -c %y mnt/file), not $changed"
works mount -o remount,ro mnt
works mount -o remount,rw mnt
works touch mnt/file
works mount.daxcow "$pool" mnt -o remount,ro
fails "read-only" touch mnt/file
unmounts mnt
works mount -t fuse.daxcow -o ro "$pool" mnt
fails "read-only" touch mnt/file
works mount -o remount,rw mnt
works touch mnt/file
works dd if=/dev/zero of=mnt/written bs=4k count=4 status=none
unmounts mnt
works daxcow snapshot --read-only "$pool" main fixed
works mount -t fuse.daxcow -o ro,volume=fixed "$pool" mnt
works cat mnt/written
fails "volume 'fixed' is read-only" mount -o remount,rw mnt
fails "read-only file system" touch mnt/written
unmounts mnt

# --- busy, lazily, twice ---------------------------------------------------------------------------------------------
works mount -t fuse.daxcow "$pool" mnt
fails "mounted already on $work/mnt" mount -t fuse.daxcow -o ro "$pool" mnt2
works mount --bind mnt mnt2
works mount -o remount,bind,ro mnt2
fails "read-only" touch mnt2/file
works touch mnt/file
works umount mnt2
exec 9<mnt/file
fails "busy" umount mnt
works cat mnt/file
works umount -l mnt
works cat <&9
fails "still in use although it was unmounted from $work/mnt" mount -t fuse.daxcow "$pool" mnt
exec 9<&-
works mount -t fuse.daxcow "$pool" mnt
cd mnt || exit 1
fails "busy" umount "$work/mnt"
cd "$work" || exit 1
unmounts mnt

# --- namespaces ------------------------------------------------------------------------------------------------------
# A mount that only its namespace has goes with it, and the daemon with the mount. (With processes of its own, as the daemon
# must be allowed to live in the namespace of process 1.)
cat >inner.bash <<'END'
unshare -m bash -c 'mount.daxcow main.pool mnt && echo inside >mnt/inside' || exit 1
mountpoint -q mnt && exit 2
flock -x -w 20 main.pool true || exit 3
END
# ThreadSanitizer has a thread in each process, and with threads none may leave its mount namespace (setns(2)).
namespaces=yes
ldd "$(command -v mount.daxcow)" | grep -q libtsan && namespaces=
[[ ! $namespaces ]] || works unshare --pid --fork --mount-proc bash inner.bash
works mount -t fuse.daxcow "$pool" mnt
[[ ! $namespaces || $(cat mnt/inside) == inside ]] || fail "what was written in a namespace is lost"
# A namespace that was copied keeps the mount after it was unmounted.
mkfifo ready go
unshare -m bash -c 'echo >ready; read -r <go; echo copied >mnt/copied' &
read -r <ready
works umount mnt
fails "another mount namespace" mount -t fuse.daxcow "$pool" mnt
works daxcow stat "$pool"
echo >go
wait
works mount -t fuse.daxcow "$pool" mnt
[[ $(cat mnt/copied) == copied ]] || fail "what was written in a copied namespace is lost"
unmounts mnt
works fsck.daxcow "$pool"
finish
