"""After how long `leaktrace run`, at its default budget, names the line that leaks, and which others it names.

`verdicts.py LEAKTRACE LEAKS INNOCENT SLOW` watches the bundled services, of each kind for so many seconds (0: not at all): those
that leak 50 objects a second and more all at once, then those that do not leak beside those that leak one a second. Prints a JSON
list with an object for each; what went wrong is its "failure".
"""

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

SERVICES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "services")
LEAKS = [
    "leak_asyncio_tasks", "leak_callbacks", "leak_class_registry", "leak_ctypes", "leak_cycles", "leak_dict_cache", "leak_gevent",
    "leak_global_list", "leak_reused", "leak_thread_local", "leak_tracebacks", "flask_leak",
]
INNOCENT = ["calm_churn", "calm_fragmentation", "calm_lru", "calm_queue", "calm_sawtooth", "calm_ttl_cache", "flask_calm"]
SLOW = ["leak_class_registry --rarely", "leak_dict_cache --rarely", "leak_global_list --rarely", "slow_leak"]

INTERVAL = 2
PATIENCE = 120  # seconds beyond the time of a run
PR_SET_PDEATHSIG = 1
# "  1m02s  820 KiB live in 3.57k blocks, ...; LEAKING 863 B/s at 1 line, worst PATH:12 page (raw)"
LOOK = re.compile(r"\s*(?:(?P<m>\d+)m)?\s*(?P<s>[\d.]+) ?s\s.* blocks, .*; (?P<what>.*)$")
WORST = re.compile(r"LEAKING .* worst (?P<line>\S+)")
SUSPECT = re.compile(r"suspected, not proven: (?P<line>\S+)")


def end_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def watch(leaktrace, name, seconds):
    script, *options = name.split()
    command = ["web.py", script] if script.startswith("flask_") else [script + ".py", *options]
    service = subprocess.Popen(
        [sys.executable, "-sB", *command], cwd=SERVICES, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    row = {"service": name, "seconds": seconds}
    try:
        ready = json.loads(service.stdout.readline().split(" ", 1)[1])
        service.stdin.write("go\n")
        with tempfile.NamedTemporaryFile() as report:
            run = [leaktrace, "run", "--pid", str(ready["pid"]), "--mode", "watch", "--duration", f"{seconds}s"]
            run += ["--interval", f"{INTERVAL}s", "--json", report.name]
            said = subprocess.run(
                run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=seconds + PATIENCE,
                preexec_fn=end_with_parent,
            )
            if said.returncode != 0:
                raise RuntimeError(f"leaktrace ended with {said.returncode}: {said.stderr[-300:]}")
            if service.poll() is not None:
                raise RuntimeError("the service ended by itself")
            return row | judge(ready["leaks"], said.stderr, json.load(report), seconds)
    except Exception as error:
        return row | {"failure": f"{type(error).__name__}: {error}"}
    finally:
        try:
            service.communicate(timeout=30)  # the end of its input ends it
        except (subprocess.TimeoutExpired, OSError):
            service.kill()
            service.wait()


def judge(leaks, log, report, seconds):
    """What the looks of the log, and the report at the end, say of the line that leaks, and of others."""
    leaking = {f"{os.path.basename(leak['file'])}:{leak['line']}" for leak in leaks}
    first, looks, later, named, others, suspected = None, 0, 0, 0, set(), set()
    for line in log.splitlines():
        look = LOOK.match(line)
        if not look:
            continue
        looks += 1
        at = 60 * int(look["m"] or 0) + float(look["s"])
        accused, suspect = WORST.match(look["what"]), SUSPECT.match(look["what"])
        right = accused and os.path.basename(accused["line"]) in leaking
        if accused and not right:
            others.add(shorten(accused["line"]))
        if suspect and os.path.basename(suspect["line"]) not in leaking:
            suspected.add(shorten(suspect["line"]))
        if right and first is None:
            first = at
        elif first is not None:
            later += 1
            named += bool(right)
    if looks < 0.7 * seconds / INTERVAL:
        raise RuntimeError(f"only {looks} looks in {seconds} s")
    for site in report["sites"]:
        frame = next((frame for frame in site["stack"] if frame.get("file")), None)
        if site["verdict"] == "growing" and frame:
            line = f"{frame['file']}:{frame.get('line')}"
            if os.path.basename(line) not in leaking:
                others.add(shorten(line))
    watched = report["capture"]["watch"]
    return {
        "python": report["target"]["python"]["version"],
        "leaks": bool(leaking),
        "first_named_seconds": first,
        "later_looks": later,
        "later_named": named,
        "accused_others": sorted(others),
        "suspected_others": sorted(suspected),
        "overhead": watched["overhead"],
        "overhead_limit": watched["overhead_limit"],
        "windows": watched["windows"],
    }


def shorten(line):
    return "/".join(line.split("/")[-2:])


def main(leaktrace, leaks, innocent, slow):
    kinds = [[(LEAKS, int(leaks))], [(INNOCENT, int(innocent)), (SLOW, int(slow))]]
    rows = []
    for together in kinds:
        runs = [(name, seconds) for names, seconds in together for name in names if seconds]
        with ThreadPoolExecutor(max(len(runs), 1)) as pool:
            rows += pool.map(lambda run: watch(leaktrace, *run), runs)
    print(json.dumps(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
