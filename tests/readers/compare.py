"""Compares the live blocks of two JSON reports by tracemalloc's own Snapshot.compare_to.

    compare.py OLD NEW KEY_TYPE

prints a JSON list of [[file, line] of each frame, most recent first; change in bytes; bytes; change in blocks; blocks].
"""
import json
import sys
import tracemalloc


def snapshot(path):
    traces = []
    for site in json.load(open(path))["sites"]:
        frames = tuple((frame["file"], frame["line"]) for frame in site["stack"] if frame["kind"] == "python")
        blocks, size = site["live_blocks"], site["live_bytes"]
        if not frames or not blocks:
            continue
        sizes = [size // blocks] * (blocks - 1)
        sizes.append(size - sum(sizes))
        traces += [(0, size, frames, len(frames)) for size in sizes]
    return tracemalloc.Snapshot(traces, 1000)


def main():
    old, new, key_type = sys.argv[1:]
    rows = snapshot(new).compare_to(snapshot(old), key_type)
    print(json.dumps([
        # A Traceback has the most recent frame last.
        [[[frame.filename, frame.lineno] for frame in reversed(row.traceback)], row.size_diff, row.size, row.count_diff, row.count]
        for row in rows if row.size_diff or row.count_diff
    ]))


main()
