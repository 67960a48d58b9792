"""Reads the exports of one recording with readers that know nothing of leaktrace, and prints the totals that they find.

exports.py FOLDER SPEEDSCOPE_SCHEMA: FOLDER has a file for each format, named by it. Needs jsonschema and `go tool pprof`.
"""

import collections
import csv
import json
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree

import jsonschema

COLUMNS = {
    "inuse_space": "live_bytes",
    "inuse_objects": "live_blocks",
    "alloc_space": "allocated_bytes",
    "alloc_objects": "allocated_blocks",
}


def pprof(path):
    found = {}
    for name in (*COLUMNS, "growth"):
        command = ["go", "tool", "pprof", "-top", "-unit=B", f"-sample_index={name}", str(path)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = int(re.search(r"Total samples = (\d+)", text).group(1))
    raw = subprocess.run(["go", "tool", "pprof", "-raw", str(path)], check=True, capture_output=True, text=True).stdout
    assert "inuse_space/bytes[dflt]" in raw and "domain:[obj]" in raw, raw[:2000]
    return found


def speedscope(path, schema):
    document = json.loads(path.read_text())
    jsonschema.validate(document, json.loads(pathlib.Path(schema).read_text()))
    frames = len(document["shared"]["frames"])
    totals = []
    for profile in document["profiles"]:
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(frame < frames for sample in profile["samples"] for frame in sample)
        assert sum(profile["weights"]) == profile["endValue"]
        totals.append(profile["endValue"])
    return dict(zip((*COLUMNS, "growth"), totals))


def collapsed(path):
    return {"inuse_space": sum(int(line.rsplit(" ", 1)[1]) for line in path.read_text().splitlines())}


def flamegraph(path):
    text = " ".join(xml.etree.ElementTree.parse(path).getroot().itertext())
    return {"inuse_space": int(re.search(r"\ball \(([\d,]+) bytes", text).group(1).replace(",", ""))}


def firefox(path):
    document = json.loads(path.read_text())
    (thread,) = document["threads"]
    assert thread["samples"]["weightType"] == "bytes"
    stacks = thread["stackTable"]["length"]
    assert all(stack < stacks for stack in thread["samples"]["stack"])
    return {"inuse_space": sum(thread["samples"]["weight"])}


def rows(rows):
    totals = collections.Counter()
    for row in rows:
        for name, column in COLUMNS.items():
            totals[name] += int(row[column])
    return dict(totals)


def main(folder, schema):
    folder = pathlib.Path(folder)
    with (folder / "csv").open(newline="") as file:
        table = rows(csv.DictReader(file, strict=True))
    lines = [json.loads(line) for line in (folder / "jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["summary"] + ["site"] * (len(lines) - 1)
    found = {
        "pprof": pprof(folder / "pprof"),
        "speedscope": speedscope(folder / "speedscope", schema),
        "collapsed": collapsed(folder / "collapsed"),
        "flamegraph": flamegraph(folder / "flamegraph"),
        "firefox": firefox(folder / "firefox"),
        "csv": table,
        "jsonl": rows(lines[1:]),
    }
    print(json.dumps(found))


main(*sys.argv[1:])
