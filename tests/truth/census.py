"""A process that knows what is in its heap: the truth for `leaktrace heap` and `leaktrace gc`.

Prints READY, then does what each line says and answers with a line of JSON. It waits in a bare read(2): between two
commands nothing is allocated.
"""

import array
import collections
import datetime
import decimal
import gc
import io
import json
import mmap
import os
import sys
import tempfile
import threading
import time
from xml.etree import ElementTree


class Plain:
    def __init__(self, number):
        self.number = number
        self.text = "text %d" % number


class Slots:
    __slots__ = ("a", "b")

    def __init__(self, number):
        self.a = number
        self.b = None


class Mapping(dict):
    pass


Point = collections.namedtuple("Point", "x y")


def generator():
    yield 1


def populate():
    generators = [generator() for _ in range(300)]
    for each in generators:
        next(each)
    return [
        [Plain(i) for i in range(5000)],
        [Slots(i) for i in range(3000)],
        [Mapping(a=i) for i in range(1000)],
        [Point(i, float(i)) for i in range(2000)],
        [set(range(i % 50)) for i in range(500)],
        [frozenset(range(i % 30)) for i in range(500)],
        [collections.deque(range(i)) for i in range(200)],
        [list(range(i % 300)) for i in range(1000)],
        [{j: j for j in range(i % 100)} for i in range(500)],
        [{"key %d" % j: j for j in range(i % 70)} for i in range(500)],
        [tuple(range(i % 200)) for i in range(500)],
        [lambda: i for i in range(500)],
        generators,
    ]


def name(kind):
    return kind.__qualname__ if kind.__module__ == "builtins" else kind.__module__ + "." + kind.__qualname__


def tracked():
    """Counts and sizes of what the collector tracks."""
    gc.collect()
    objects = gc.get_objects()
    counts = collections.Counter(name(type(each)) for each in objects)
    sizes = collections.Counter()
    for each in objects:
        sizes[name(type(each))] += sys.getsizeof(each)
    del objects
    return {"counts": counts, "sizes": sizes}


def atoms():
    """Objects that the collector does not know or that have memory of their own, by type, none of them there before."""
    files = [io.BytesIO(b"content of a buffer" * (i % 90) + b"%d" % i) for i in range(1000)]
    elements = [element(i % 12) for i in range(1000)]
    return [
        [float(i) + 0.5 for i in range(20000)],
        ["a string %d" % i for i in range(20000)],
        ["\u20ac uro %d" % i for i in range(5000)],
        [b"some bytes %d" % i for i in range(10000)],
        [2**40 + i for i in range(20000)],
        [2 ** (60 * (1 + i % 40)) + i for i in range(3000)],
        [complex(i, i) for i in range(5000)],
        [("large %d " % i) * 200 for i in range(500)],
        [bytes(1000 + i) for i in range(500)],
        [bytearray(i % 900) for i in range(1000)],
        [datetime.datetime(2020, 1, 1) + datetime.timedelta(seconds=i) for i in range(2000)],
        [decimal.Decimal(i) / 7 for i in range(2000)],
        [decimal.Decimal(10 ** (i % 200) + 1) for i in range(2000)],
        [array.array("bdq"[i % 3], range(i % 100)) for i in range(2000)],
        [array.array("d", range(1000 + i)) for i in range(100)],
        files,
        [Content(file) for file in files],
        [io.BufferedReader(files[i], 1 + 40 * i) for i in range(300)],
        [collections.OrderedDict.fromkeys(range(i % 120)) for i in range(300)],
        elements,
        [child for parent in elements for child in parent],
    ]


def element(children):
    made = ElementTree.Element("made")
    made.extend(ElementTree.Element("child") for _ in range(children))
    return made


class Content:
    """The bytes object that a BytesIO has to itself: it counts as both."""

    def __init__(self, file):
        self.file = file

    def size(self):
        return sys.getsizeof(self.file) - sys.getsizeof(io.BytesIO())


def sums(groups):
    result = {}
    for group in groups:
        for each in group:
            content = type(each) is Content
            entry = result.setdefault("bytes" if content else name(type(each)), [0, 0])
            entry[0] += 1
            entry[1] += each.size() if content else sys.getsizeof(each)
    return result


def collector():
    return {
        "enabled": gc.isenabled(),
        "thresholds": gc.get_threshold(),
        "sizes": [len(gc.get_objects(generation=i)) for i in range(3)],
        "stats": gc.get_stats(),
        "frozen": gc.get_freeze_count(),
        "garbage": [name(type(each)) for each in gc.garbage],
    }


class Cycle:
    def __init__(self):
        self.self = self
        self.junk = [{}, (self,), set()]


def mutate():
    kept = collections.deque(maxlen=2000)
    while True:
        for i in range(300):
            kept.append([Cycle(), {str(i): [i] * (i % 70)}, "x" * (i * 7)])
        kept.popleft()


def serve(leaked, kept_more):
    """A service under load: it answers, and keeps a bit of each answer."""
    while True:
        for i in range(20):
            request = {"path": "/%d" % i, "headers": [("name", str(i))] * 5}
            answer = [Cycle(), json.dumps(request), set(request)]
        with kept_more:
            leaked.extend([Plain(1), Slots(answer[1]), Plain(2), {1, 2, 3}])
            kept_more.notify_all()
        time.sleep(0.002)


def typestats():
    import objgraph

    return objgraph.typestats(shortnames=False)


def mallinfo():
    """What glibc says of its heaps: bytes in them, free bytes, those at the end, and bytes mapped one by one; None of another libc."""

    import ctypes

    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo"):
        return None
    # From glibc 2.33 on; what came before counts in ints.
    wide = hasattr(libc, "mallinfo2")
    number = ctypes.c_size_t if wide else ctypes.c_int

    class Info(ctypes.Structure):
        _fields_ = [(field, number) for field in "arena ordblks smblks hblks hblkhd usmblks fsmblks".split()]
        _fields_ += [(field, number) for field in "uordblks fordblks keepcost".split()]

    ask = libc.mallinfo2 if wide else libc.mallinfo
    ask.restype = Info
    info = ask()
    return [info.arena, info.fordblks - info.fsmblks, info.keepcost, info.hblkhd]


def churn_native(kept):
    """Blocks of the C allocator, of which every second is freed, and some that have a mapping of their own."""
    import ctypes

    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.free.argtypes = [ctypes.c_void_p]
    blocks = [libc.malloc(2000 + i % 1000) for i in range(20000)]
    for block in blocks[::2]:
        libc.free(block)
    kept.append([blocks[1::2], [libc.malloc(1 << 20) for _ in range(10)]])


def fragment():
    """Many small objects, of which one in a hundred stays: the arenas are pinned."""
    filled = [bytes(40 + i % 3) for i in range(1500000)]
    stay = filled[::100]
    del filled
    return stay


def touch_file():
    file = tempfile.TemporaryFile()
    file.truncate(64 << 20)
    mapped = mmap.mmap(file.fileno(), 0)
    for page in range(0, len(mapped), 4096):
        mapped[page] = 1
    return file, mapped


def touch_native():
    mapped = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for page in range(0, len(mapped), 4096):
        mapped[page] = 1
    return mapped


def warm_up():
    return [[i] for i in range(400000)]


def threads(kept):
    """Objects of threads, some of which have ended, of which another thread frees a part."""
    made = [[] for _ in range(10)]
    forever = threading.Event()

    def work(own, stay):
        own.extend(Plain(i) for i in range(3000))
        own.extend("text of a thread %d" % i for i in range(1000))
        done.release()
        if stay:
            forever.wait()

    done = threading.Semaphore(0)
    workers = [threading.Thread(target=work, args=(own, i % 2), daemon=True) for i, own in enumerate(made)]
    for worker in workers:
        worker.start()
    for _ in workers:
        done.acquire()
    for worker in workers[::2]:
        worker.join()
    for own in made:
        del own[::3]
    kept.append([made, forever, workers])


def huge(kept):
    """Objects that are larger than what allocators serve from common memory."""
    kept.append([bytes(80 << 20), (None,) * 5000000, [None] * 6000000])


def leak(kept, count):
    kept.extend(Plain(i) for i in range(count))


def say(word, value):
    os.write(1, ("%s%s\n" % (word, json.dumps(value))).encode())


def read_line():
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            os._exit(0)
        line += byte
    return line.decode().strip()


def main():
    gc.disable()
    population = populate()
    kept = []
    leaked = []
    kept_more = threading.Condition()
    for _ in range(3):
        # What is made at the first time (encoders, caches) is there before it counts.
        json.dumps([tracked(), sums(population[:1]), collector()])
    say("READY ", {"pid": os.getpid()})
    while True:
        command = read_line()
        if command == "tracked":
            say("", tracked())
        elif command == "atoms":
            made = atoms()
            kept.append(made)
            say("", sums(made))
        elif command == "collector":
            say("", collector())
        elif command == "garbage":
            gc.garbage.extend([[], {}, Slots(1), "text"])
            say("", None)
        elif command == "freeze":
            gc.freeze()
            say("", None)
        elif command == "enable":
            gc.enable()
            say("", None)
        elif command == "mutate":
            gc.enable()
            for _ in range(3):
                threading.Thread(target=mutate, daemon=True).start()
            say("", None)
        elif command == "serve":
            gc.enable()
            threading.Thread(target=serve, args=(leaked, kept_more), daemon=True).start()
            say("", None)
        elif command.startswith("serve_until "):
            with kept_more:
                end = len(leaked) + int(command[12:])
                kept_more.wait_for(lambda: len(leaked) >= end)
            say("", len(leaked))
        elif command == "churn_native":
            churn_native(kept)
            say("", None)
        elif command in ("threads", "huge"):
            globals()[command](kept)
            say("", None)
        elif command == "mallinfo":
            say("", mallinfo())
        elif command == "typestats":
            say("", typestats())
        elif command.startswith("leak "):
            leak(leaked, int(command[5:]))
            say("", len(leaked))
        elif command in ("fragment", "touch_file", "touch_native", "warm_up"):
            kept.append(globals()[command]())
            say("", None)
        elif command == "quit":
            os._exit(0)


main()
