"""What the benchmarks that read heaps share: a heap of records, and a command with the resources that it takes."""

import os
import sys


class Record:
    def __init__(self, number):
        self.number = number
        self.name = "record %d" % number


def populate(objects):
    number = objects // 12
    return [
        [Record(i) for i in range(number)],
        [{"id": i, "tags": [i, i + 1]} for i in range(number)],
        [(i, float(i), "text %d" % i * 4) for i in range(number)],
    ]


def run(command):
    """Its standard output, its standard error, and the resources that it took."""
    output, error = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(output[1], 1)
        os.dup2(error[1], 2)
        os.execv(command[0], command)
    os.close(output[1])
    os.close(error[1])
    with open(output[0]) as out, open(error[0]) as err:
        texts = out.read(), err.read()
    _, status, usage = os.wait4(pid, 0)
    if status:
        sys.exit("%s failed: %s" % (command, texts[1]))
    return texts + (usage,)
