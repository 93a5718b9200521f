#!/usr/bin/env bash
# daxcow run and daxcow clone: every program clones and deduplicates, with the answers of XFS; whoever runs it, however it ends,
# and whatever its terminal does meanwhile.
set -uo pipefail
. "$(dirname "$0")/fixture.bash" reflink

mkdir -m 755 mnt mnt2
works mkfs.daxcow -q --size 256M good.pool
works mount.daxcow good.pool mnt
works daxcow volume create good.pool other
works mount.daxcow good.pool mnt2 -o volume=other
chmod 1777 mnt mnt2
head -c 5000001 /dev/urandom >mnt/file

# shared FILE FILE...: equal, and the same blocks.
where() { daxcow map --json "$1" | tr -d ' \n' | grep -o '"pool_offset_bytes":[0-9]*' | sort -u; }
shared() {
  local first=$1 other
  shift
  for other; do
    cmp "$first" "$other" || fail "$other differs from $first"
    [[ $(where "$first") == "$(where "$other")" ]] || fail "$other does not share the blocks of $first"
  done
}
# ends CODE COMMAND...: the command ends so.
ends() {
  local code=$1 status
  shift
  timeout -k 5 60 "$@" >out 2>err </dev/null
  status=$?
  [[ $status == "$code" ]] || fail "$*: exit code $status, not $code: $(cat err)"
}
says() { [[ $(cat out) == "$1" ]] || fail "printed '$(cat out)' and not '$1'"; }

# --- programs --------------------------------------------------------------------------------------------------------
fails "not supported" cp --reflink=always mnt/file mnt/refused
rm -f mnt/refused
works daxcow run cp --reflink=always mnt/file mnt/copy
works daxcow run -- cp --reflink=always mnt/file mnt2/copy
works daxcow run sh -c 'for i in 1 2 3; do (cp --reflink=always mnt/file mnt/child$i) & done; wait'
works daxcow run daxcow-reflink-calls --clone mnt/file mnt/static
shared mnt/file mnt/copy mnt2/copy mnt/child1 mnt/child2 mnt/child3 mnt/static
if daxcow-reflink-calls --clone mnt/file mnt/thirty-two i386 >out 2>err && false || grep -q '^-' out; then
  works daxcow run daxcow-reflink-calls --clone mnt/file mnt/thirty-two i386
  shared mnt/file mnt/thirty-two
fi
if command -v xfs_io >/dev/null; then
  works daxcow run xfs_io -f -c "reflink mnt/file 4096 8192 16384" mnt/range
  cmp -n 8192 mnt/range /dev/zero && cmp <(tail -c +4097 mnt/file | head -c 16384) <(tail -c +8193 mnt/range | head -c 16384) ||
    fail "xfs_io clones a range wrongly"
  dd if=mnt/file of=mnt/twin bs=1M status=none
  works daxcow run xfs_io -c "dedupe mnt/file 0 0 5000001" mnt/twin
  shared mnt/file mnt/twin
fi
if command -v duperemove >/dev/null; then
  dd if=mnt/file of=mnt/double1 bs=1M status=none
  dd if=mnt/file of=mnt/double2 bs=1M status=none
  # Version 0.11 does -d on filesystems only that it knows by name; with a list of fdupes(1) everywhere.
  printf '%s\n%s\n\n' "$work/mnt/double1" "$work/mnt/double2" | daxcow run duperemove --fdupes >out 2>err || fail "duperemove: $(cat err)"
  shared mnt/double1 mnt/double2
fi
# A file without its last block, over another; a sparse one; empty ones.
truncate -s 1T mnt/sparse
echo end >>mnt/sparse
works daxcow run cp --reflink=always mnt/sparse mnt/sparse2
[[ $(stat -c '%s %b' mnt/sparse2) == "$(stat -c '%s %b' mnt/sparse)" ]] || fail "a sparse clone is not"

# Everything that can be asked, right and wrong; what XFS answered is in a file.
mkdir -m 777 mnt/calls mnt/calls2
ends 0 daxcow run daxcow-reflink-calls mnt/calls
diff out "$DAXCOW_SOURCE_DIR/test/reflink/xfs_answers.txt" || fail "these answers are not those of XFS"
ends 0 "${as_nobody[@]}" "$(command -v daxcow)" run "$(command -v daxcow-reflink-calls)" mnt/calls2
diff out "$DAXCOW_SOURCE_DIR/test/reflink/xfs_answers.txt" || fail "these answers, for nobody, are not those of XFS"
# Another pool; the host's filesystem.
mkdir mnt3
works mkfs.daxcow -q --size 32M second.pool
works mount.daxcow second.pool mnt3
fails "cross-device" daxcow run cp --reflink=always mnt/file mnt3/file
fails "cross-device" daxcow run cp --reflink=always mnt/file elsewhere
works umount mnt3
# Read-only mounts.
works mount.daxcow good.pool mnt2 -o volume=other,remount,ro
works daxcow run cp --reflink=always mnt2/copy mnt/back
shared mnt2/copy mnt/back
fails "read-only" daxcow run cp --reflink=always mnt/file mnt2/copy
works mount.daxcow good.pool mnt2 -o volume=other,remount,rw

# --- who may ---------------------------------------------------------------------------------------------------------
chmod 600 mnt/file
fails "permission" "${as_nobody[@]}" "$(command -v daxcow)" run cp --reflink=always mnt/file mnt/stolen
chmod 644 mnt/file
works "${as_nobody[@]}" "$(command -v daxcow)" run cp --reflink=always mnt/file mnt/nobodys
works daxcow run "${as_nobody[@]}" cp --reflink=always mnt/file mnt2/nobodys
shared mnt/file mnt/nobodys mnt2/nobodys
# Root runs somebody else's program: what it could not do by itself it cannot do here.
dd if=mnt/file of=mnt/roots bs=1M status=none
if command -v xfs_io >/dev/null; then
  daxcow run "${as_nobody[@]}" xfs_io -r -c "dedupe mnt/file 0 0 4096" mnt/roots >out 2>&1
  grep -qi "not permitted" out || fail "nobody deduplicates root's file: $(cat out)"
  dd if=mnt/file of=mnt/nobodys bs=1M status=none
  works daxcow run "${as_nobody[@]}" xfs_io -r -c "dedupe mnt/file 0 0 4096" mnt/nobodys
fi
cp mnt/file mnt/set-id
chmod 6777 mnt/set-id
works daxcow run "${as_nobody[@]}" sh -c 'dd if=mnt/file bs=4096 count=0 status=none && cp --reflink=always mnt/file mnt/set-id'
[[ $(stat -c %a mnt/set-id) == 777 ]] || fail "nobody's clone leaves set-id bits: $(stat -c %a mnt/set-id)"
# By a ticket without the right to read, or to write, nothing can be had: daxcow clone needs both.
chmod 600 mnt/roots
refused 1 "permission" "${as_nobody[@]}" "$(command -v daxcow)" clone mnt/roots mnt/stolen
refused 1 "permission" "${as_nobody[@]}" "$(command -v daxcow)" clone mnt/file mnt/roots
works "${as_nobody[@]}" "$(command -v daxcow)" clone mnt/file mnt2/theirs
shared mnt/file mnt2/theirs

# A clone takes the target's file capabilities away, one that is refused does not.
capability=0x0100000200200000000000000000000000000000
cp mnt/file mnt/capable
setfattr -n security.capability -v $capability mnt/capable
if command -v xfs_io >/dev/null; then
  daxcow run xfs_io -c "reflink mnt/file 100 0 4096" mnt/capable >out 2>&1
  getfattr -n security.capability mnt/capable >out 2>&1 || fail "a refused clone removes capabilities: $(cat out)"
  works daxcow run xfs_io -c "reflink mnt/file 0 0 4096" mnt/capable
  getfattr -n security.capability mnt/capable >out 2>&1 && fail "a clone leaves capabilities"
fi

# --- others that are stuck, or at the same file --------------------------------------------------------------------
if command -v python3 >/dev/null; then
  cat >stuck.sh <<'SCRIPT'
exec 7<mnt3/a 8<>mnt3/b
kill -STOP $1
for i in 1 2 3 4 5 6; do
  timeout -s KILL 2 python3 -c 'import fcntl; fcntl.ioctl(8, 0x40049409, 7)' &
done
sleep 1
timeout 10 cp --reflink=always mnt/file mnt/while-stuck
code=$?
wait
kill -CONT $1
exit $code
SCRIPT
  works mount.daxcow second.pool mnt3
  cp mnt/file mnt3/a
  cp mnt/file mnt3/b
  daemon=$(daemon_of second.pool)
  ends 0 daxcow run bash stuck.sh "$daemon"
  kill -CONT "$daemon" 2>/dev/null
  shared mnt/file mnt/while-stuck
  works umount mnt3
  cat >race.py <<'SCRIPT'
import fcntl, os, threading
source = open("mnt/file", "rb")
content = source.read()
target = os.open("mnt/raced", os.O_RDWR | os.O_CREAT)
wrong = 0
for turn in range(400):
    both = threading.Barrier(2)
    def clone():
        both.wait()
        fcntl.ioctl(target, 0x40049409, source.fileno())
    def truncate():
        both.wait()
        os.ftruncate(target, 0)
    threads = [threading.Thread(target=clone), threading.Thread(target=truncate)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    found = os.pread(target, len(content) + 1, 0)
    wrong += found not in (b"", content)
print(wrong)
SCRIPT
  ends 0 daxcow run python3 race.py
  says 0
fi

# --- what is in the cache --------------------------------------------------------------------------------------------
cp mnt/file mnt/mapped
exec 8<mnt/mapped
head -c 4096 <&8 >/dev/null
head -c 5000001 /dev/urandom >mnt/file2
works daxcow run cp --reflink=always mnt/file2 mnt/mapped
cmp mnt/file2 mnt/mapped || fail "old pages of a clone's target are seen"
exec 8<&-

# --- ends ------------------------------------------------------------------------------------------------------------
ends 0 daxcow run true
ends 7 daxcow run sh -c 'exit 7'
ends 139 daxcow run sh -c 'kill -SEGV $$'
ends 137 sh -c 'daxcow run sh -c "kill -9 \$\$"; exit $?'
refused 127 "no such file" daxcow run nonsense
refused 126 "permission" daxcow run "$work"
refused 125 "COMMAND is missing" daxcow run
refused 125 "unrecognised option" daxcow run --wrong true
ends 1 daxcow run --check
ends 0 daxcow run daxcow run --check
ends 0 daxcow run daxcow run echo inside
says inside
grep -q "already" err || fail "nothing is said of being nested: $(cat err)"
SHELL=/bin/true ends 0 daxcow run --shell
ends 124 timeout 0.5 daxcow run sleep 60
# Whoever starts it may ignore what tells of children.
ends 3 sh -c 'trap "" CHLD; exec daxcow run sh -c "exit 3"'
# With another PID namespace's /proc, threads would be taken for others.
if unshare -pf true 2>/dev/null; then
  refused 125 "needs the /proc" unshare -pf daxcow run true
  ends 4 unshare -pf --mount-proc daxcow run sh -c 'cp --reflink=always mnt/file mnt/in-namespace && exit 4'
  shared mnt/file mnt/in-namespace
fi
# Signals for the process alone, and for its group, arrive once.
count='n=0; trap "n=\$((n + 1))" USR1; trap "echo \$n; exit 9" TERM; echo ready >ready; while :; do sleep 0.05; done'
for target in alone group; do
  rm -f ready
  setsid daxcow run sh -c "$count" >counted 2>&1 &
  command=$!
  for ((i = 0; i < 100; ++i)); do [[ -e ready ]] && break; sleep 0.05; done
  group=$(ps -o pgid= -p "$(pgrep -P "$(pgrep -P $command)")" | tr -d ' ')
  sleep 0.1
  for signal in USR1 USR1 TERM; do
    if [[ $target == alone ]]; then kill -$signal $command; else kill -$signal -- "-$group"; fi
    sleep 0.4
  done
  wait $command
  [[ $? == 9 && $(tail -n 1 counted) == 2 ]] || fail "signals to the process $target: $(cat counted)"
done
# A killed front takes the command with it; a background process is served on, and holds nothing up.
daxcow run sleep 613 &
command=$!
sleep 0.3
kill -9 $command
wait $command 2>/dev/null
sleep 0.2
pgrep -f '^sleep 613' >/dev/null && fail "a killed daxcow run leaves its command behind"
ends 0 daxcow run sh -c '(sleep 0.5; cp --reflink=always mnt/file mnt/late; : >late) </dev/null >/dev/null 2>&1 &'
for ((i = 0; i < 100; ++i)); do [[ -e late ]] && break; sleep 0.05; done
shared mnt/file mnt/late

# --- terminals -------------------------------------------------------------------------------------------------------
# A session of bash in a terminal, by the keys that are pressed; what it says is in `screen`.
if command -v script >/dev/null; then
  {
    sleep 0.7; printf 'PS1=; stty -echo\n'
    sleep 0.4; printf 'daxcow run cat\n'; sleep 0.6; printf '\003'; sleep 0.4; printf 'echo interrupted $?\n'
    sleep 0.4; printf 'daxcow run cat\n'; sleep 0.6; printf '\032'; sleep 0.4; printf 'jobs; fg\n'; sleep 0.4; printf 'going on\n\004'
    sleep 0.4; printf 'echo ended $?\n'
    sleep 0.4; printf 'daxcow run bash --norc\n'; sleep 0.8; printf 'PS1=; sleep 100\n'; sleep 0.5; printf '\032'; sleep 0.4
    printf 'kill %%1; wait; echo inner $?; suspend\n'; sleep 0.6; printf 'echo outer; fg\n'; sleep 0.6; printf 'echo inner again; exit 5\n'
    sleep 0.6; printf 'echo shell $?\n'
    sleep 0.3; printf 'daxcow run sh -c "kill -STOP \\$\\$; echo goes on"\n'; sleep 0.6; printf 'jobs; fg\n'; sleep 0.6
    printf 'daxcow run sh -c "(sleep 1; kill -CONT \\$\\$) & kill -STOP \\$\\$; echo by itself"\n'; sleep 1.8; printf 'wait; echo all $?\n'
    sleep 0.5; printf 'daxcow run sh -c "kill -STOP \\$\\$; kill -STOP \\$\\$; echo twice"\n'; sleep 0.6; printf 'fg\n'; sleep 0.6; printf 'fg\n'
    sleep 0.6; printf 'daxcow run sleep 1\n'; sleep 0.5; printf '\032'; sleep 0.4
    printf 'kill -CONT $(jobs -p); wait; echo waited $?\n'; sleep 1.6; printf 'exit\n'; sleep 0.5
  } | timeout 60 script -q -c 'bash --norc' /dev/null >screen 2>&1
  tr -d '\r' <screen >out
  for line in 'interrupted 130' 'Stopped.*daxcow run cat' 'going on' 'ended 0' 'Stopped.*sleep 100' 'Stopped.*daxcow run bash' outer \
    'inner again' 'shell 5' 'Stopped.*kill -STOP' '^goes on' 'by itself$' '^all 0' 'twice$' 'waited 0'; do
    grep -qE "$line" out || fail "in a terminal: no line '$line' in: $(cat -v out)"
  done
fi

# --- trees -----------------------------------------------------------------------------------------------------------
tree=mnt/tree
mkdir -p $tree/sub/deep
cp mnt/file $tree/file
ln $tree/file $tree/sub/hard
ln -s ../file $tree/sub/link
ln -s /nowhere $tree/dangling
mkfifo $tree/pipe
mknod $tree/device c 1 3
truncate -s 1G $tree/sparse
echo end >>$tree/sparse
setfattr -n user.name -v value $tree/file $tree/sub
setfattr -n trusted.name -v value $tree/file
setfacl -m u:1000:rw $tree/file
setfacl -d -m g:100:rx $tree/sub
chown 12:13 $tree/sparse
chmod 2751 $tree/sparse
chmod 1700 $tree/sub/deep
printf 'odd\n name' >"$tree/odd
name"
touch -d '1999-01-01 12:00:00.123456789' $tree/sub/deep $tree/file
touch -h -d 2001-02-03 $tree/dangling
describe() {
  (cd "$1" && find . -printf '%P %y %m %U %G %s %b %T@ %n %l\n' | sort && getfattr -Rhd -m - . && getfacl -R . && find . -type f -exec md5sum {} + | sort -k 2)
}
describe $tree >before 2>/dev/null
for clone in mnt/clone mnt2/clone; do
  works daxcow clone -r $tree $clone
  describe $clone 2>/dev/null | diff before - || fail "$clone is not its original"
  shared $tree/file $clone/file
  [[ $(stat -c %i $clone/file) == "$(stat -c %i $clone/sub/hard)" ]] || fail "hard links are separate files in $clone"
done
works daxcow clone -r $tree/ mnt/copy.d
# More attributes than the kernel lists: it says so, and keeps who may do what. Links of a path that no system call takes.
mkdir mnt/many
echo many >mnt/many/file
name=$(printf 'n%.0s' {1..235})
for ((i = 0; i < 300; ++i)); do setfattr -n "user.$name$i" -v v mnt/many/file; done
setfacl -m u:1000:rw mnt/many/file
fails "rgument list too long" daxcow clone -r mnt/many mnt/many2
[[ $(getfacl -c mnt/many/file 2>/dev/null) == "$(getfacl -c mnt/many2/file 2>/dev/null)" ]] || fail "a list of rights got lost"
(
  mkdir mnt/long && cd mnt/long && echo linked >one
  long=$(printf 'd%.0s' {1..200})
  for ((i = 0; i < 25; ++i)); do mkdir $long && cd $long || exit; done
  echo below >two && ln two three
)
works daxcow clone -r mnt/long mnt/long2
(($(find mnt/long2 -name two -o -name three | wc -l) == 2)) || fail "links deep below are missing"
mkdir mnt/into
works daxcow clone -r $tree mnt/into
[[ -e mnt/into/tree/sub/hard ]] || fail "no tree in a directory that was there"
refused 1 "exists" daxcow clone -r $tree mnt/into
refused 1 "itself" daxcow clone -r $tree $tree/inside
refused 1 "no such file" daxcow clone -r mnt/nothing mnt/new
refused 1 "is a directory" daxcow clone $tree mnt/new
daxcow clone -r $tree outside 2>err && fail "a tree was cloned to another filesystem"
grep -q "not on a daxcow mount" err || fail "says $(cat err)"
works "${as_nobody[@]}" "$(command -v daxcow)" clone -r mnt/into/tree/file mnt/nobodys.d
grep -q "only root" err || fail "nothing is said of owners that are not kept"

works umount mnt2
works umount mnt
wait_for_end good.pool second.pool
works fsck.daxcow good.pool
finish
