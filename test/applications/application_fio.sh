fio_does="random and sequential I/O of each engine, every block verified by crc32c"
fio_packages="fio"
fio_pool="512M 2G"

application_fio() {
  local size=$(choose 3M 192M) processes=$(choose 1 2)
  # verify NAME ARGUMENT...: writes, and reads back what must be there.
  verify() {
    local name=$1 bandwidth
    shift
    fio --name="$name" --directory="$PWD" --size="$size" --verify=crc32c --verify_fatal=1 --do_verify=1 --randrepeat=0 \
      --group_reporting --output="$name.out" "$@"
    cat "$name.out"
    bandwidth=$(sed -n 's/^ *WRITE: bw=\([^ ]*\) .*/\1/p' "$name.out")
    figure "$name $bandwidth"
    rm -f "$name".*.0
  }
  verify buffered --ioengine=psync --rw=randwrite --bsrange=512-64k --bs_unaligned --numjobs="$processes"
  verify direct --ioengine=psync --direct=1 --rw=randwrite --bs=4k --numjobs="$processes"
  verify mmap --ioengine=mmap --rw=randwrite --bs=4k --fsync=64 --numjobs="$processes"
  verify libaio --ioengine=libaio --direct=1 --iodepth=32 --rw=randwrite --bs=4k --numjobs="$processes"
  verify io_uring --ioengine=io_uring --iodepth=32 --rw=randwrite --bs=8k --numjobs="$processes"
  [[ $quick ]] && return
  verify io_uring-direct --ioengine=io_uring --direct=1 --iodepth=32 --rw=randwrite --bs=16k --numjobs="$processes"
  verify mixed --ioengine=psync --rw=randrw --bs=4k --verify_backlog=256 --numjobs="$processes"
  verify sequential --ioengine=psync --rw=write --bs=1M --end_fsync=1
  verify allocated --ioengine=libaio --direct=1 --iodepth=16 --rw=randwrite --bs=64k --fallocate=posix --numjobs="$processes"
}
