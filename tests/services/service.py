"""Handshake, pacing and ground truth shared by the bundled services.

A service prints `READY {json}` on stdout and starts work when a line arrives on stdin, or at once with --go. The JSON has
the pid to trace and, for a leaking service, where it leaks: the line marked `# LEAK` and the function around it.
While it works, the line `stats` is answered by one line of JSON, `exec` replaces the process by a fresh one of the same
service, and `quit` or the end of stdin ends it. With --rarely, it does what it is for in one step of 200, and in the others only
what every service does beside that: those that leak do so once a second.
Pure standard library, 3.8 and later.
"""

import ast
import gc
import json
import os
import select
import sys
import time

MARKER = "# LEAK"
RARELY = 200


class Control:
    """Commands that arrive as lines on stdin. Reads the descriptor itself: a buffered reader would hide lines from select."""

    def __init__(self):
        self.closed = False
        self._pending = b""
        self._lines = []

    def next(self, timeout=0.0):
        """The next command, or None when none came within `timeout` seconds (None: wait). `quit` at the end of input."""
        if not self._lines and not self.closed and select.select([0], [], [], timeout)[0]:
            data = os.read(0, 4096)
            *lines, self._pending = (self._pending + data).split(b"\n")
            self._lines += [line.decode().strip() for line in lines]
            self.closed = not data
        if self._lines:
            return self._lines.pop(0)
        return "quit" if self.closed else None


def qualified_name(tree, line):
    """Qualified name of the innermost function that covers `line`."""
    best = "<module>"

    def visit(node, prefix):
        nonlocal best
        for child in ast.iter_child_nodes(node):
            inner = prefix
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                is_class = isinstance(child, ast.ClassDef)
                name = prefix + child.name
                if child.lineno <= line <= child.end_lineno and not is_class:
                    best = name
                inner = name + ("." if is_class else ".<locals>.")
            visit(child, inner)

    visit(tree, "")
    return best


def leaks_of(path):
    """The marked lines of a source file, with the function of each."""
    with open(path, encoding="utf-8") as file:
        source = file.read()
    tree = ast.parse(source)
    lines = [number for number, text in enumerate(source.splitlines(), 1) if text.rstrip().endswith(MARKER)]
    return [{"file": path, "line": number, "function": qualified_name(tree, number)} for number in lines]


def say(word, **fields):
    print(word, json.dumps(fields), flush=True)


def ready(pid=None, source=None):
    """Announces the service, and waits for the start unless --go was given. Returns the control."""
    source = source or os.path.abspath(sys.argv[0])
    say("READY", pid=pid or os.getpid(), leaks=leaks_of(source))
    control = Control()
    if "--go" not in sys.argv and control.next(None) == "quit" and control.closed:
        sys.exit(0)
    return control


def lines():
    """Live bytes by line as tracemalloc sees them, under `python -X tracemalloc`: a second opinion on where a service leaks."""
    if "tracemalloc" not in sys._xoptions:
        return {}
    import tracemalloc

    found = {}
    for statistic in tracemalloc.take_snapshot().statistics("lineno"):
        frame = statistic.traceback[0]
        found[f"{frame.filename}:{frame.lineno}"] = {"bytes": statistic.size, "blocks": statistic.count}
    return found


def stats(steps, **more):
    print(json.dumps({"steps": steps, "gc": gc.get_stats(), "lines": lines(), **more}), flush=True)


def serve(step, rate, source=None, pid=None, more=dict):
    """Calls `step(n)` for n = 0, 1, ... at `rate` a second (None: as fast as it goes) until told to quit.
    `more()` is what the service adds to the answer to `stats`."""
    control = ready(pid, source)
    every = RARELY if "--rarely" in sys.argv else 1
    begin, n = time.monotonic(), 0
    while True:
        wait = 0.0 if rate is None else begin + n / rate - time.monotonic()
        command = control.next(max(wait, 0.0)) if rate is not None or n % 64 == 0 else None
        if command == "quit":
            return
        if command == "stats":
            stats(n, **more())
        if command == "exec":
            os.execv(sys.executable, [sys.executable, *sys.argv])
        if command is None:
            (churn if n % every else step)(n)
            n += 1


def churn(n):
    """What a request does beside its purpose: parses, formats and sorts, and lets go of all of it."""
    body = json.dumps({"id": n, "tags": [f"tag-{n % 7}-{i}" for i in range(8)], "ok": True})
    fields = json.loads(body)
    rows = sorted(({"rank": (n * 7919 + i) % 101, "name": str(i)} for i in range(12)), key=lambda row: row["rank"])
    return len(fields["tags"]) + rows[0]["rank"]
