#!/usr/bin/env bash
# How long it takes from a change of the device's list of bad blocks to the last signal: for 1 owner, and for 1,000 owners in 10
# mounts, which 10 processes map, with 500 other processes running. Prints the medians of ten bad blocks each.
# Runs with real-time priority, so that what else the machine does disturbs little. Needs root, /dev/fuse, and a minute.
#
#   test/bench/poison_latency.sh [BIN-DIR]      default: build/release/bin
set -euo pipefail

bin=${1:-$(dirname "${BASH_SOURCE[0]}")/../../build/release/bin}
((EUID == 0)) || { echo "$0: mounting needs root" >&2; exit 1; }
exec chrt --fifo 5 "$bin/daxcow_mount_tests" "[latency]"
