"""Allocates and frees as fast as it can, and computes a digest that says whether anything it read back was wrong.

    storm.py                    in the main thread
    storm.py --threads N        in N more threads as well
    storm.py --forks            a child each 20 steps, which works too and says its result by its exit status
    storm.py --signals          a signal each millisecond, whose handler allocates
    storm.py --seccomp          under a filter that kills on any system call that Python does not need for this
    storm.py --digest STEPS     prints the digest after STEPS steps, and ends

The work repeats every CYCLE steps. `stats` answers with `digest`, that after `cycle_step` steps of a cycle, with the
threads' own pairs, and with `wrong`: how many cycles ended with another digest than the one before READY.
"""

import ctypes
import json
import os
import signal
import struct
import sys
import threading

import service

# System calls of x86-64 that a running Python needs to compute, allocate, collect, lock, and read and write its pipes.
ALLOWED = {
    "read": 0, "write": 1, "open": 2, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15, "ioctl": 16,
    "readv": 19, "writev": 20, "select": 23, "sched_yield": 24, "mremap": 25, "madvise": 28, "nanosleep": 35,
    "setitimer": 38, "getpid": 39, "exit": 60, "fcntl": 72, "getcwd": 79, "sigaltstack": 131, "gettid": 186, "futex": 202,
    "clock_gettime": 228, "clock_nanosleep": 230, "exit_group": 231, "openat": 257, "newfstatat": 262, "pselect6": 270,
    "getrandom": 318,
}  # fmt: skip


def confine():
    """Installs a filter that kills the process at any other call (linux/seccomp.h, linux/filter.h)."""
    load, jump_equal, give = 0x20, 0x15, 0x06
    kill, allow, x86_64 = 0x80000000, 0x7FFF0000, 0xC000003E
    numbers = sorted(ALLOWED.values())
    program = [(load, 0, 0, 4), (jump_equal, 1, 0, x86_64), (give, 0, 0, kill), (load, 0, 0, 0)]
    program += [(jump_equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    program += [(give, 0, 0, kill), (give, 0, 0, allow)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *one) for one in program))
    argument = struct.pack("<HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    set_seccomp, filter_mode, no_new_privileges = 22, 2, 38
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filter_mode, argument, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


CYCLE = 2000


class Work:
    """Some allocations of every kind, whose contents go into a running checksum."""

    def __init__(self, expected=None):
        self.state = (0, 0)
        self.expected = expected
        self.wrong = 0

    def step(self, n):
        _, digest = self.state
        n %= CYCLE
        if n == 0:
            self.wrong += self.expected is not None and digest not in (0, self.expected)
            digest = 0
        rows = [{"id": n + i, "name": f"row {i}", "blob": bytes([i + n & 255]) * (8 << i)} for i in range(9)]
        text = json.dumps([(row["id"], row["name"]) for row in rows])
        buffer = bytearray()
        for row in rows:
            buffer += row["blob"]
        shuffled = sorted(rows, key=lambda row: row["id"] * 7919 % 13)
        ring = [text]
        ring.append(ring)
        # The hash of text is the same in each run only under one PYTHONHASHSEED.
        seen = digest, bytes(buffer), text, tuple(row["id"] for row in shuffled)
        self.state = n + 1, hash(seen) & 0xFFFFFFFF


def digest_after(steps):
    work = Work()
    for n in range(steps):
        work.step(n)
    return work.state[1]


def endless(work):
    n = 0
    while True:
        work.step(n)
        n += 1


def fork_and_check(n):
    child = os.fork()
    if child == 0:
        os._exit(digest_after(5 + n % 7) & 127)
    expected = digest_after(5 + n % 7)
    _, status = os.waitpid(child, 0)
    if not os.WIFEXITED(status) or os.WEXITSTATUS(status) != expected & 127:
        raise SystemExit(f"child {child} of step {n} ended with status {status}")


class Signals:
    seen = 0
    last = None

    @classmethod
    def handle(cls, number, frame):
        cls.last = [str(cls.seen), {"number": number}, bytes(600)]
        cls.seen += 1


def main(arguments):
    if "--digest" in arguments:
        print(digest_after(int(arguments[arguments.index("--digest") + 1])))
        return
    expected = digest_after(CYCLE)
    main_work = Work(expected)
    crew = [Work(expected) for _ in range(int(arguments[arguments.index("--threads") + 1]) if "--threads" in arguments else 0)]
    for work in crew:
        threading.Thread(target=endless, args=(work,), daemon=True).start()
    if "--signals" in arguments:
        signal.signal(signal.SIGALRM, Signals.handle)
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    if "--seccomp" in arguments:
        confine()
    forks = "--forks" in arguments

    def step(n):
        main_work.step(n)
        if forks and n % 20 == 0:
            fork_and_check(n)

    def more():
        step, digest = main_work.state
        wrong = main_work.wrong + sum(work.wrong for work in crew)
        return {"cycle_step": step, "digest": digest, "threads": [work.state for work in crew], "wrong": wrong}

    service.serve(step, None, more=more)
    signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
