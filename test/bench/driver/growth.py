"""What grows with the number of files on a mount, measured while a directory tree of daxcow grows: memory of the daemon, time to
mount, to snapshot; and what the engine alone costs by size, from daxcow_engine_bench."""

import json
import os
import subprocess
import time

from driver import peers


def memory_bytes(pid):
    with open(f"/proc/{pid}/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def timed(function):
    start = time.perf_counter_ns()
    function()
    return time.perf_counter_ns() - start


def make_files(directory, first, end):
    """Empty files, a thousand to a directory."""
    for i in range(first, end):
        if i % 1000 == 0:
            os.mkdir(f"{directory}/{i // 1000}")
        os.close(os.open(f"{directory}/{i // 1000}/{i}", os.O_CREAT | os.O_WRONLY))


def grow(daxcow, btrfs, sizes):
    """Lines of {files, metric, value} for each number of files."""
    tool = os.path.join(daxcow.programs, "daxcow")
    lines, made = [], 0
    note = lambda metric, value: lines.append({"files": made, "metric": metric, "value": value})
    for size in sizes:
        for peer in filter(None, (daxcow, btrfs)):
            make_files(peer.directory, made, size)
        made = size
        note("memory_bytes", memory_bytes(daxcow.daemon()))
        for i in range(3):
            name = f"snapshot-{made}-{i}"
            note("snapshot_ns", timed(lambda: peers.run(tool, "snapshot", daxcow.image, "main", name)))
            peers.run(tool, "volume", "delete", daxcow.image, name)
            if btrfs is not None:
                path = os.path.join(btrfs.directory, name)
                note("btrfs_snapshot_ns", timed(lambda: peers.run("btrfs", "subvolume", "snapshot", btrfs.directory, path)))
                peers.run("btrfs", "subvolume", "delete", path)
        daxcow.unmount()
        note("mount_ns", timed(daxcow.mount))
        note("memory_after_mount_bytes", memory_bytes(daxcow.daemon()))
        note("records", json.loads(peers.run(tool, "stat", "--json", daxcow.image).stdout).get("reverse_records", 0))
    return lines


def engine_curves(programs, maximum, log):
    """Curves of the engine's costs by size: {name: [(size, ns), ...]}, and google-benchmark's whole output."""
    program = os.path.join(programs, "daxcow_engine_bench")
    if not os.path.exists(program):
        log("daxcow_engine_bench was not built (google-benchmark: .ci/install-packages --with-bench): no costs by size")
        return {}, None
    done = subprocess.run([program, "--benchmark_format=json", "--benchmark_min_time=0.1"], capture_output=True, text=True,
                          env={"DAXCOW_BENCH_MAXIMUM": str(maximum), **os.environ})
    if done.returncode != 0:
        log(f"daxcow_engine_bench failed: {done.stderr.strip().splitlines()[-1:]}")
        return {}, None
    output, curves = json.loads(done.stdout), {}
    for item in output["benchmarks"]:
        name, size = item["name"].split("/")[:2]
        cost = item.get("p50_ns_per_entry", item["p50_ns"])
        if int(size) > 0:
            curves.setdefault(name + (" (entry)" if name == "readdir" else ""), []).append((int(size), cost))
    return {name: points for name, points in curves.items() if len(points) > 1}, output
