archive_does="tar and rsync round trips of everything that a file can have, compared both ways"
archive_packages="tar rsync acl attr"
archive_pool="512M 2G"

# A tree with all kinds of files, names, attributes and holes.
archive_tree() {
  local files=$1 i
  mkdir -p "$1"
  cd "$1"
  mkdir -p plain/{0..9} odd sparse linked special lists
  awk -v n="$2" 'BEGIN { srand(2); for (i = 0; i < n; ++i) { file = "plain/" i % 10 "/" i; for (l = int(rand() * 300); l > 0; --l) print i, l, rand() > file; printf "" > file; close(file) } }'
  head -c "$(choose 500000 50000000)" /dev/urandom >plain/large
  # Names: blanks, new lines, not UTF-8, as long as they may be.
  : >"odd/ a b "
  : >odd/$'new\nline'
  : >odd/$'\xff\xfe'
  : >"odd/$(printf 'ü%.0s' {1..127})a"
  ln -s "$(printf '%04000d' 0)" odd/long-link
  ln -s nowhere odd/dangling
  ln -s ../plain odd/link-to-directory
  # Holes at the beginning, in between, at the end.
  local unit=$(choose 64K 4M)
  truncate -s 20M sparse/empty
  for i in 3 17 42; do printf data | dd of=sparse/some bs="$unit" seek=$i conv=notrunc status=none; done
  truncate -s +5M sparse/some
  printf end | dd of=sparse/end bs="$unit" seek=30 status=none
  fallocate -l 3M sparse/allocated
  # Several names.
  echo linked >linked/one
  ln linked/one linked/two
  ln linked/one plain/three
  for i in {1..50}; do ln linked/one "linked/name-$i"; done
  mkfifo special/fifo
  mknod special/null c 1 3
  mknod special/disk b 7 200
  ln -s fifo special/link
  # Modes, owners, times.
  for i in 0 0400 0644 4755 2755 1777 7777; do : >"special/mode-$i" && chown 1234:5678 "special/mode-$i" && chmod "$i" "special/mode-$i"; done
  touch -d '1969-12-31 23:59:58.5 UTC' special/before-1970
  touch -d '2200-01-01 00:00:00.123456789 UTC' special/after-2200
  mkdir -m 2775 special/setgid
  # Attributes and lists.
  setfattr -n user.text -v "some text" lists
  setfattr -n user.binary -v 0x00ff00ff lists
  for i in {1..20}; do : >lists/$i && setfattr -n user.number -v "$i" lists/$i && setfattr -n trusted.number -v "$i" lists/$i; done
  setfattr -n user.large -v "$(printf '%03000d' 7)" lists/1
  setfattr -h -n trusted.link -v 1 odd/dangling
  setfacl -m u:1:rwx,g:2:r-x,u:12345:--- lists/2
  setfacl -d -m u:3:rwx,m::r-x lists
  mkdir lists/inherits
  : >lists/inherits/file
  cp /bin/true special/capable
  setcap cap_net_raw+ep special/capable 2>/dev/null || true
  cd ..
}

archive_differences() { rsync -aHAXnci --delete "$1/" "$2/"; }
archive_same() {
  local differences
  differences=$(archive_differences "$1" "$2" && archive_differences "$2" "$1")
  [[ -z $differences ]] || { echo "$1 and $2 differ:"; echo "$differences" | head -n 20; return 1; }
  cmp <(archive_sums "$1") <(archive_sums "$2")
  [[ $(stat -c %Y.%y "$1/special/after-2200") == "$(stat -c %Y.%y "$2/special/after-2200")" ]]
  [[ $(getfattr -R -h -d -m - "$1" 2>/dev/null | grep -v '^# file' | sort | sha256sum) == $(getfattr -R -h -d -m - "$2" 2>/dev/null | grep -v '^# file' | sort | sha256sum) ]]
}
archive_sums() { (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum); }

application_archive() {
  local flags=(--xattrs '--xattrs-include=*' --acls --numeric-owner -S --format=posix)
  archive_tree original "$(choose 150 20000)"
  tar "${flags[@]}" -C original -cf here.tar .
  mkdir by-tar
  tar "${flags[@]}" -C by-tar -xpf here.tar
  archive_same original by-tar
  rm here.tar
  rsync -aHAXS --numeric-ids original/ by-rsync/
  archive_same original by-rsync
  cp -a --sparse=always original by-cp
  archive_same original by-cp
  # Holes stay holes.
  local tree
  for tree in by-tar by-rsync by-cp; do (($(du -sm $tree/sparse | cut -f 1) < 10)); done
  # Through an archive elsewhere, and back.
  tar "${flags[@]}" -C by-rsync -cf "$work/aside/there.tar" .
  mkdir back
  tar "${flags[@]}" -C back -xpf "$work/aside/there.tar"
  archive_same original back
  # A second rsync has nothing to do; one after a change does just that.
  [[ -z $(rsync -aHAXSi --numeric-ids original/ by-rsync/) ]]
  echo more >>original/plain/large
  [[ $(rsync -aHAXSi --inplace --no-whole-file --numeric-ids original/ by-rsync/ | wc -l) == 1 ]]
  archive_same original by-rsync
  figure "$(find original | wc -l) names, $(du -sm original | cut -f 1) MiB, four copies the same"
  rm -rf back by-cp
}
