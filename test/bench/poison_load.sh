#!/usr/bin/env bash
# Poison under load, for as long as is wanted: readers, writers, mappings, syncs and unmounts, with a bad block every 50 ms and
# then every 3 ms, each for N seconds (test/mount/poison_load_test.cc says what must hold). Needs root and /dev/fuse.
#
#   test/bench/poison_load.sh [--seconds N] [--seed N] [BIN-DIR]      default: 600 seconds, build/release/bin
set -euo pipefail

bin=$(dirname "${BASH_SOURCE[0]}")/../../build/release/bin
export DAXCOW_POISON_SECONDS=600
while (($# > 0)); do
  case $1 in
    --seconds) DAXCOW_POISON_SECONDS=${2:?--seconds needs a number} && shift ;;
    --seed) export DAXCOW_SEED=${2:?--seed needs a number} && shift ;;
    -*) sed -n '2,/^set -/{/^set -/d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2 && exit 2 ;;
    *) bin=$1 ;;
  esac
  shift
done
((EUID == 0)) || { echo "$0: mounting needs root" >&2; exit 1; }
exec "$bin/daxcow_mount_tests" "[poison-load]"
