"""How long it takes to name the container that leaks in a large heap.

`holders.py LEAKTRACE OBJECTS ROUNDS` runs each leaking service of holders.json beside OBJECTS other objects, asks
`leaktrace refs` for it, and prints one JSON object.
"""

import json
import os
import runpy
import subprocess
import sys
import time

from common import populate, run

SERVICES = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "services")
BALLAST = []


def target(name, objects):
    """The service, as if it had been started by itself."""
    BALLAST.extend(populate(objects))
    sys.path.insert(0, SERVICES)
    sys.argv = [os.path.join(SERVICES, name + ".py"), "--go"]
    runpy.run_path(sys.argv[0], run_name="__main__")


def measure_one(leaktrace, name, expected, objects):
    command = [sys.executable, __file__, "target", name, objects]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    begun = time.monotonic()
    text, _, usage = run([leaktrace, "refs", "--pid", str(process.pid), "--json", "-"])
    seconds = time.monotonic() - begun
    process.stdin.close()
    process.wait()
    answer = json.loads(text)
    culprits = answer["growth"]["culprits"]
    return {
        "python": answer["python"],
        "service": name,
        "expected": expected,
        "named": culprits[0]["path"] if culprits else None,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
        "objects": answer["coverage"]["objects"],
        "references": answer["coverage"]["references"],
    }


def measure(leaktrace, objects, rounds):
    with open(os.path.join(SERVICES, "holders.json")) as file:
        holders = json.load(file)
    rows = [
        measure_one(leaktrace, name, expected, objects)
        for _ in range(int(rounds))
        for name, expected in sorted(holders.items())
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    if sys.argv[1] == "target":
        target(sys.argv[2], int(sys.argv[3]))
    else:
        measure(*sys.argv[1:])
