#!/usr/bin/env bash
# daxcow dedupe and daxcow du on real mounts: what is equal is shared and stays what it was, also while it is written to; the figures
# are what deleting gives back.
set -uo pipefail
. "$(dirname "$0")/fixture.bash" dedupe

mkdir -m 755 mnt mnt2
works mkfs.daxcow -q --size 256M good.pool
works mount.daxcow good.pool mnt
works daxcow volume create good.pool other
works mount.daxcow good.pool mnt2 -o volume=other
chmod 1777 mnt mnt2

figure() { tr -d ' \n' <out | grep -oE "\"$1\":[0-9]+" | head -n 1 | cut -d: -f2; }
# A copy that shares nothing.
copy() { dd if="$1" of="$2" bs=1M status=none; }

head -c 3000001 /dev/urandom >random
{ head -c 40960 random; head -c 1000000 random; } >shifted
mkdir mnt/tree
for file in mnt/tree/one mnt/tree/two mnt2/three; do copy random $file; done
copy shifted mnt/tree/shifted
truncate -s 10G mnt/tree/sparse
echo unique >mnt/tree/unique
find mnt mnt2 -type f ! -name sparse -exec md5sum {} + >sums

works daxcow dedupe --dry-run --json mnt mnt2
would=$(figure shared_bytes)
((would > 6900000)) || fail "a dry run finds only $would bytes"
works daxcow du --json mnt/tree/two
[[ $(figure exclusive_bytes) == 3002368 ]] || fail "a dry run has shared something: $(cat out)"
works daxcow dedupe --json mnt mnt2
[[ $(figure shared_bytes) == "$would" ]] || fail "$(figure shared_bytes) bytes are shared, not $would"
md5sum --quiet -c sums || fail "contents have changed"
works daxcow dedupe --json mnt mnt2
[[ $(figure shared_bytes) == 0 ]] || fail "there is something left to share: $(cat out)"
works daxcow du --json mnt2/three
[[ $(figure exclusive_bytes) == 0 && $(figure data_bytes) == 3002368 ]] || fail "du says $(cat out)"
# Little memory: long runs are found still.
copy random mnt/tree/again
works daxcow dedupe --memory 1M --json mnt/tree
(($(figure shared_bytes) > 2900000)) || fail "with little memory: $(cat out)"
# For owners; not for others.
copy random mnt/roots
chmod 644 mnt/roots
daxcow="$(command -v daxcow)"
"${as_nobody[@]}" "$daxcow" dedupe mnt/tree/one mnt/roots >out 2>err && fail "nobody deduplicates root's files"
grep -q "not permitted" err || fail "says $(cat err)"
chown 65534 mnt/roots
works "${as_nobody[@]}" "$daxcow" dedupe mnt/tree/one mnt/roots
fails "not on a daxcow mount" daxcow dedupe random
refused 2 "at least 1M" daxcow dedupe --memory 1 mnt

# A symbolic link that is named leads to its file.
ln -s one mnt/tree/named
works daxcow dedupe --json mnt/tree/named
[[ $(figure files) == 1 ]] || fail "a named link is not followed: $(cat out)"

# While both files are written to: each keeps what its writer wrote.
copy random mnt/busy1
copy random mnt/busy2
cp random mirror1
cp random mirror2
for n in 1 2; do
  (for ((i = 0; i < 150; ++i)); do
    offset=$((RANDOM % 700))
    head -c 4096 /dev/urandom >block$n
    dd if=block$n of=mnt/busy$n bs=4096 seek=$offset conv=notrunc status=none
    dd if=block$n of=mirror$n bs=4096 seek=$offset conv=notrunc status=none
  done) &
done
for ((i = 0; i < 10; ++i)); do works daxcow dedupe mnt/busy1 mnt/busy2; done
wait
for n in 1 2; do cmp mnt/busy$n mirror$n || fail "busy$n is not what was written"; done

# What du says is what comes free.
free_blocks() { daxcow settle good.pool; stat -f -c %f mnt; }
works daxcow du --json mnt/tree
exclusive=$(figure exclusive_bytes)
before=$(free_blocks)
rm -r mnt/tree
after=$(free_blocks)
(((after - before) * 4096 == exclusive)) || fail "$(((after - before) * 4096)) bytes came free, and not $exclusive"
works daxcow snapshot good.pool main kept
works daxcow volume list --space --json good.pool
[[ $(figure exclusive_bytes) == 0 ]] || fail "what a snapshot has too is exclusive: $(cat out)"

# What cannot be read is told of, and what lies behind it is shared.
mkdir mnt3
works mkfs.daxcow -q --size 64M bad.pool
works mount.daxcow bad.pool mnt3 -o no_rescue
for file in mnt3/one mnt3/two; do copy random $file; done
sync mnt3/one mnt3/two
offset=$(daxcow map mnt3/two | awk 'NR == 2 { print $4 }')
works daxcow inject-error mnt3 -B $(((offset + 1052672) / 512)) -n 8
fails "input/output error" daxcow dedupe --json mnt3/one mnt3/two
(($(figure shared_bytes) > 2900000)) || fail "what lies behind a bad block is not shared: $(cat out)"

works umount mnt3
works umount mnt2
works umount mnt
wait_for_end good.pool bad.pool
works fsck.daxcow good.pool
finish
