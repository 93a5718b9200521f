"""Medians, ratios and aims from the measurements; as text and as an SVG picture."""

import math
import statistics
from collections import defaultdict
from html import escape

COLOURS = {"floor": "#666666", "xfs": "#1f77b4", "btrfs": "#2ca02c", "ext4": "#9467bd", "fuse2fs": "#d62728",
           "floor-data": "#aaaaaa", "floor-announce": "#c8b400"}


class Results:
    """Measurements: dictionaries with metric, peer, round, ns (and p99_ns, 0 where single operations were not timed)."""

    def __init__(self, lines):
        self.times = defaultdict(lambda: defaultdict(dict))  # metric -> peer -> round -> (ns, p99)
        for line in lines:
            self.times[line["metric"]][line["peer"]][line["round"]] = (line["ns"], line["p99_ns"])

    def metrics(self):
        return list(self.times)

    def peers(self):
        found = dict.fromkeys(peer for metric in self.times.values() for peer in metric)
        return [peer for peer in found if peer != "daxcow"]

    def median(self, metric, peer="daxcow"):
        rounds = self.times.get(metric, {}).get(peer)
        return statistics.median(ns for ns, _ in rounds.values()) if rounds else None

    def tail(self, metric, peer="daxcow"):
        """p99 over p50, the median of the rounds; None where single operations were not timed."""
        rounds = self.times.get(metric, {}).get(peer, {})
        ratios = [p99 / ns for ns, p99 in rounds.values() if p99 and ns]
        return statistics.median(ratios) if ratios else None

    def ratio(self, metric, peer):
        """How many times faster daxcow is than the peer: the median of the ratios of rounds that followed each other."""
        ours, theirs = self.times.get(metric, {}).get("daxcow", {}), self.times.get(metric, {}).get(peer, {})
        pairs = [theirs[i][0] / ours[i][0] for i in ours if i in theirs and ours[i][0]]
        return statistics.median(pairs) if pairs else None

    def within(self, slower, faster):
        """How many times longer one metric takes than another, on daxcow."""
        ours, base = self.times.get(slower, {}).get("daxcow", {}), self.times.get(faster, {}).get("daxcow", {})
        pairs = [ours[i][0] / base[i][0] for i in ours if i in base and base[i][0]]
        return statistics.median(pairs) if pairs else None


def duration(ns):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if ns >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns:.0f} ns"


def table(results):
    """Lines of a Markdown table. A ratio above 1 means that daxcow is that many times faster."""
    peers = results.peers()
    yield "| | daxcow | p99/p50 | the floor's | " + " | ".join(f"than {peer}" for peer in peers) + " |"
    yield "| --- | ---: | ---: | ---: |" + " ---: |" * len(peers)
    for metric in results.metrics():
        ours = results.median(metric)
        if ours is None:
            continue
        cells = [duration(ours)] + [f"{tail:.1f}" if (tail := results.tail(metric, peer)) else "" for peer in ("daxcow", "floor")]
        for peer in peers:
            ratio = results.ratio(metric, peer)
            cells.append(f"{ratio:.3g}x" if ratio else "")
        yield f"| {metric} | " + " | ".join(cells) + " |"


AIMS = [
    # what, how to compute it, the aim, whether larger is better
    ("clone in many extents: times the floor's empty request", lambda r: invert(r.ratio("clone_fragmented", "floor")), 2, False),
    ("clone in many extents: times faster than XFS", lambda r: r.ratio("clone_fragmented", "xfs"), 1000, True),
    ("overwrite of a shared block: times an unshared one", lambda r: r.within("overwrite_shared", "overwrite_unshared"), 2, False),
    ("the slowest of 4 KiB reads and writes: of the floor", lambda r: worst(r, ("random_4k_", "latency_4k_"), "floor"), 0.9, True),
    ("- the same, in the middle", lambda r: middle(r, ("random_4k_", "latency_4k_"), "floor"), 0.9, True),
    ("- the same, of the floor that keeps data", lambda r: middle(r, ("random_4k_", "latency_4k_"), "floor-data"), 0.9, True),
    ("create: of the floor", lambda r: r.ratio("create", "floor"), 0.9, True),
    ("stat: of the floor", lambda r: r.ratio("stat", "floor"), 0.9, True),
    ("the slowest of sequential 1 MiB: of the floor", lambda r: worst(r, ("sequential_1m_",), "floor"), 0.9, True),
    ("- the same, in the middle", lambda r: middle(r, ("sequential_1m_",), "floor"), 0.9, True),
    ("- the same, of the floor that keeps data", lambda r: middle(r, ("sequential_1m_",), "floor-data"), 0.9, True),
    ("sequential buffered reads of what is not cached: of XFS", lambda r: r.ratio("sequential_1m_read_buffered_t1", "xfs"), 0.5, True),
    ("the worst case against fuse2fs", lambda r: worst(r, ("",), "fuse2fs"), 1, True),
    ("p99 over p50, the worst (first overwrites apart)",
     lambda r: tails(r, "daxcow"), 5, False),
    ("- the floor's", lambda r: tails(r, "floor"), 5, False),
]


def tails(results, peer):
    return max([results.tail(m, peer) for m in results.metrics()
                if results.tail(m, peer) and "first" not in m and "overwrite" not in m], default=None)


def invert(ratio):
    return 1 / ratio if ratio else None


def ratios(results, prefixes, peer):
    return [ratio for metric in results.metrics() if metric.startswith(prefixes) and (ratio := results.ratio(metric, peer))]


def worst(results, prefixes, peer):
    return min(ratios(results, prefixes, peer), default=None)


def middle(results, prefixes, peer):
    found = ratios(results, prefixes, peer)
    return statistics.median(found) if found else None


def aims(results):
    yield "| aim | wanted | reached | |"
    yield "| --- | ---: | ---: | --- |"
    for what, compute, wanted, larger in AIMS:
        reached = compute(results)
        if reached is None:
            continue
        met = reached >= wanted if larger else reached <= wanted
        yield f"| {what} | {'>=' if larger else '<='} {wanted:g} | {reached:.3g} | {'met' if met else 'missed'} |"


class Picture:
    def __init__(self):
        self.parts = []

    def text(self, x, y, text, size=11, anchor="start", colour="#222"):
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">'
                          f'{escape(text)}</text>')

    def line(self, points, colour="#ccc", width=1):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def dot(self, x, y, colour, title):
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"><title>{escape(title)}</title></circle>')

    def svg(self, width, height):
        return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
                f'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>\n' + "\n".join(self.parts) + "\n</svg>\n")


def log_axis(low, high, start, end):
    """A function from values to places, and the powers of ten between."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    last = max(last, first + 1)
    place = lambda value: start + (math.log10(value) - first) / (last - first) * (end - start)
    return place, [10.0 ** power for power in range(first, last + 1)]


def draw_ratios(picture, results, left, top, right):
    """A row for each metric, a dot for each peer; returns where it ends."""
    peers = results.peers()
    rows = [(metric, {peer: ratio for peer in peers if (ratio := results.ratio(metric, peer))}) for metric in results.metrics()]
    rows = [(metric, ratios) for metric, ratios in rows if ratios]
    if not rows:
        return top
    picture.text(20, top, "How many times faster daxcow is (1: as fast)", 15)
    for i, peer in enumerate(peers):
        picture.dot(left + 95 * i, top + 20, COLOURS.get(peer, "#000"), peer)
        picture.text(left + 95 * i + 8, top + 24, peer)
    values = [ratio for _, ratios in rows for ratio in ratios.values()]
    place, ticks = log_axis(min(0.5, *values), max(2, *values), left, right)
    bottom = top + 40 + 16 * len(rows)
    for tick in ticks:
        picture.line([(place(tick), top + 36), (place(tick), bottom)], "#333" if tick == 1 else "#ddd")
        picture.text(place(tick), bottom + 14, f"{tick:g}", anchor="middle")
    for i, (metric, ratios) in enumerate(rows):
        y = top + 48 + 16 * i
        picture.text(left - 10, y + 4, metric, anchor="end")
        picture.line([(left, y), (right, y)], "#f2f2f2")
        for peer, ratio in ratios.items():
            picture.dot(place(ratio), y, COLOURS.get(peer, "#000"), f"{metric}: {ratio:.3g}x {peer}")
    return bottom + 30


def draw_sizes(picture, title, curves, left, top, right):
    """Curves of nanoseconds by size, both logarithmic; returns where it ends."""
    points = [point for curve in curves.values() for point in curve]
    if not points:
        return top
    bottom = top + 340
    picture.text(20, top, title, 15)
    across, sizes = log_axis(min(x for x, _ in points), max(x for x, _ in points), left, right - 170)
    up, times = log_axis(min(y for _, y in points), max(y for _, y in points), bottom, top + 20)
    for size in sizes:
        picture.line([(across(size), top + 20), (across(size), bottom)], "#ddd")
        picture.text(across(size), bottom + 14, f"{size:.0e}".replace("e+0", "e"), anchor="middle")
    for time in times:
        picture.line([(left, up(time)), (right - 170, up(time))], "#ddd")
        picture.text(left - 6, up(time) + 4, duration(time), anchor="end")
    palette = ["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf", "#ff7f0e"]
    labels = sorted((up(curve[-1][1]), name, i) for i, (name, curve) in enumerate(curves.items()))
    last_y = top
    for y, name, i in labels:
        colour, curve = palette[i % len(palette)], curves[name]
        picture.line([(across(x), up(v)) for x, v in curve], colour, 2)
        for x, v in curve:
            picture.dot(across(x), up(v), colour, f"{name}, {x:g}: {duration(v)}")
        last_y = max(y, last_y + 13)
        picture.text(right - 160, last_y + 4, name, colour=colour)
    return bottom + 40


def draw(results, panels):
    """The whole picture: ratios, then for each (title, curves) a panel of cost by size."""
    picture = Picture()
    width = 900
    end = draw_ratios(picture, results, 260, 30, width - 30)
    for title, curves in panels:
        end = draw_sizes(picture, title, curves, 110, end + 20, width - 20)
    return picture.svg(width, int(end) + 10)
