# What a guest is made of, on Debian 12: QEMU, the distribution's kernel, the firmware module, the initial file system. To be
# sourced. Everything is kept in $cache, so that only the first run downloads and builds.
#
#   machine_prepare      makes $cache/kernel/{vmlinuz,modules}, $cache/firmware/nvdimm_firmware.ko; sets $kernel
#   machine_initramfs    makes $cache/initramfs from these, the guest's scripts and the programs of $DAXCOW_BIN_DIR
#   machine_boot         boots a guest
#
# What cannot be had ends the script with 77 and a line that says what.

machine_packages=(qemu-system-x86 busybox-static bash coreutils util-linux attr ndctl kmod cpio e2fsprogs xfsprogs gcc-12 make
  libelf1 libc6-dev fuse3)

machine_skip() {
  echo "SKIPPED: $*"
  exit 77
}

machine_install() {
  local package missing=()
  for package in "${machine_packages[@]}"; do
    [[ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" == *" installed" ]] || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  ((EUID == 0)) || machine_skip "needs the packages ${missing[*]}"
  echo "Installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get install -y -q --no-install-recommends "${missing[@]}" >"$cache/install.log" 2>&1 ||
    { apt-get update -q && apt-get install -y -q --no-install-recommends "${missing[@]}"; } >>"$cache/install.log" 2>&1 ||
    machine_skip "cannot install ${missing[*]}: $(tail -n 1 "$cache/install.log")"
}

# The kernel that the distribution's meta package names. (Not the one for clouds: it has no machine checks.) A machine without
# network uses the one that was downloaded last.
machine_kernel_version() {
  apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/.*Depends: linux-image-//p'
}
machine_download() {
  local common=linux-headers-${kernel%-amd64}-common kbuild
  kbuild=linux-kbuild-$(cut -d. -f1,2 <<<"$kernel")
  mkdir -p "$cache/packages.new" && cd "$cache/packages.new" &&
    apt-get download -q "linux-image-$kernel" "linux-headers-$kernel" "$common" "$kbuild"
}
machine_kernel() {
  kernel=$(machine_kernel_version)
  if [[ -z $kernel ]]; then
    apt-get update -q >"$cache/update.log" 2>&1
    kernel=$(machine_kernel_version)
  fi
  if [[ -f $cache/kernel/version && (-z $kernel || $kernel == "$(cat "$cache/kernel/version")") ]]; then
    kernel=$(cat "$cache/kernel/version")
    return
  fi
  [[ $kernel ]] || machine_skip "no package linux-image-amd64 is known to apt"
  echo "Downloading the kernel $kernel"
  rm -rf "$cache"/{packages.new,image,headers,kernel}
  (machine_download) >"$cache/download.log" 2>&1 ||
    (apt-get update -q && machine_download) >>"$cache/download.log" 2>&1 ||
    machine_skip "cannot download linux-image-$kernel: $(tail -n 1 "$cache/download.log")"
  local package
  for package in "$cache"/packages.new/linux-image-*.deb; do dpkg-deb -x "$package" "$cache/image"; done
  for package in "$cache"/packages.new/linux-{headers,kbuild}-*.deb; do dpkg-deb -x "$package" "$cache/headers"; done
  # The headers' makefile names its other half by an absolute path.
  sed -i "s#/usr/src/#$cache/headers/usr/src/#" "$cache/headers/usr/src/linux-headers-$kernel/Makefile"
  depmod -b "$cache/image" "$kernel"
  rm -rf "$cache/packages.new"
  mkdir "$cache/kernel"
  cp "$cache/image/boot/vmlinuz-$kernel" "$cache/kernel/vmlinuz"
  echo "$kernel" >"$cache/kernel/version"
}

machine_firmware() {
  local module=$cache/firmware/nvdimm_firmware.ko
  if [[ $module -nt $here/firmware/nvdimm_firmware.c && $module -nt $cache/kernel/version ]]; then return; fi
  rm -rf "$cache/firmware"
  cp -r "$here/firmware" "$cache/firmware"
  make -C "$cache/headers/usr/src/linux-headers-$kernel" M="$cache/firmware" modules >"$cache/firmware.log" 2>&1 || {
    tail -n 20 "$cache/firmware.log" >&2
    echo "$0: the firmware module cannot be built" >&2
    exit 1
  }
}

machine_prepare() {
  [[ $(uname -m) == x86_64 ]] || machine_skip "the guests are of x86_64"
  command -v apt-get >/dev/null || machine_skip "needs Debian's packages"
  mkdir -p "$cache"
  # One at a time; a second run waits.
  exec {machine_lock}>"$cache/lock"
  flock "$machine_lock"
  machine_install
  machine_kernel
  machine_firmware
  flock -u "$machine_lock"
}

# copy_program ROOT PROGRAM...: with its libraries, each under the path that the program asks for.
machine_copy_programs() {
  local root=$1 program library
  shift
  for program; do
    cp -L "$program" "$root/usr/bin/"
    # (A static program has none.)
    ldd "$program" 2>/dev/null | grep -oE '/[^ ]+\.so[^ ]*' | while read -r library; do
      mkdir -p "$root$(dirname "$library")"
      [[ -e $root$library ]] || cp -L "$library" "$root$library"
    done
  done
}

machine_copy_modules() {
  local root=$1 module file names=(ext4 xfs fuse nd_pmem nfit device_dax dax_pmem crc32c_generic crc32c_intel)
  mkdir -p "$root/lib/modules/$kernel/updates"
  cp "$cache/image/lib/modules/$kernel"/modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$kernel/"
  for module in "${names[@]}"; do
    modprobe -C /dev/null -d "$cache/image" -S "$kernel" -D "$module" | awk '$1 == "insmod" { print $2 }'
  done | sort -u | while read -r file; do
    mkdir -p "$root/$(dirname "${file#"$cache/image/"}")"
    cp "$file" "$root/${file#"$cache/image/"}"
  done
  cp "$cache/firmware/nvdimm_firmware.ko" "$root/lib/modules/$kernel/updates/"
  depmod -b "$root" "$kernel"
}

# machine_initramfs FILE
machine_initramfs() {
  local root name
  root=$(mktemp -d "$work/root-XXXXXX")
  mkdir -p "$root"/{usr/bin,proc,sys,dev,tmp,etc,run,mnt,lib64,lib/x86_64-linux-gnu}
  for name in bin sbin usr/sbin; do ln -s /usr/bin "$root/$name"; done
  machine_copy_programs "$root" /usr/bin/busybox
  for name in $(busybox --list); do [[ -e $root/usr/bin/$name ]] || ln -s busybox "$root/usr/bin/$name"; done
  # The real ones, where busybox's do less.
  for name in bash ndctl kmod mke2fs mkfs.xfs fusermount3 cp dd stat timeout taskset flock mountpoint filefrag getfattr fallocate truncate mount umount setfattr; do
    rm -f "$root/usr/bin/$name"
    machine_copy_programs "$root" "$(command -v "$name")"
  done
  for name in modprobe insmod rmmod lsmod depmod; do ln -sf kmod "$root/usr/bin/$name"; done
  for name in daxcow mkfs.daxcow fsck.daxcow mount.daxcow daxcow_pages; do
    machine_copy_programs "$root" "$DAXCOW_BIN_DIR/$name"
  done
  cp /etc/mke2fs.conf "$root/etc/"
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  echo 'root:x:0:' >"$root/etc/group"
  ln -s /proc/self/mounts "$root/etc/mtab"
  machine_copy_modules "$root"
  find "$root" -type f \( -name '*.ko' -o -path '*/usr/bin/*' \) -exec strip -g {} + 2>/dev/null
  cp "$here"/guest/* "$root/"
  (cd "$root" && find . | cpio -o -H newc --quiet) >"$1"
  rm -rf "$root"
}

# machine_boot NAME COMMAND_LINE: runs a guest to its end, at most $guest_seconds. Its console is NAME.console, what it reports
# NAME.reports. For a line "@mce ADDRESS" there it raises a machine check: memory scrubbing has met an uncorrectable error at that physical address.
machine_boot() {
  local console=$1.console reports=$1.reports monitor=$1.monitor guest raised=0 address
  # The last N*16 MiB are the namespaces', the 2 MiB the label and alignment; XFS wants 300 MB.
  local bytes=402M
  mkfifo "$monitor"
  : >"$console"
  : >"$reports"
  timeout -k 5 "$guest_seconds" qemu-system-x86_64 -nodefaults -no-reboot -display none -accel tcg,thread=multi \
    -machine q35,nvdimm=on -cpu max,vendor=GenuineIntel -smp 2 -m 1G,slots=2,maxmem=4G \
    -object memory-backend-ram,id=memory,size=$bytes -device nvdimm,memdev=memory,label-size=128K \
    -kernel "$cache/kernel/vmlinuz" -initrd "$work/initramfs" \
    -append "console=ttyS0 quiet panic=-1 oops=panic mitigations=off $2" \
    -serial "file:$console" -serial "file:$reports" -monitor stdio <"$monitor" >"$1.qemu" 2>&1 &
  guest=$!
  trap 'kill "$guest" 2>/dev/null' TERM
  exec {to_monitor}>"$monitor"
  while kill -0 "$guest" 2>/dev/null; do
    while read -r _ address; do
      # To all processors, reported by the first in its bank 9: valid, uncorrected, with an address, of memory scrubbing
      # (0xc0); action is optional.
      echo "mce -b 0 9 0xbd000000000000c0 5 $address 0x8c" >&"$to_monitor"
      raised=$((raised + 1))
    done < <(tr -d '\r' <"$reports" | grep '^@mce ' | tail -n +$((raised + 1)))
    sleep 0.3
  done
  exec {to_monitor}>&-
  wait "$guest"
  sed -i 's/\r//g' "$console" "$reports"
}
