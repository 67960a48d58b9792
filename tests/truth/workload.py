"""What the truth script allocates: on known lines, with survivors on each, and everything that CPython allocates with.

Each phase takes `n`, the number of survivors of a line, and returns what must stay alive. Deterministic; 3.8 and later.
Memory that CPython's allocator does not see is written down by `native`, because tracemalloc cannot tell it.
"""

import array
import collections
import ctypes
import dataclasses
import decimal
import functools
import gc
import io
import json
import struct
import sys
import threading
import types
import weakref

try:
    import numpy
except ImportError:
    numpy = None


class Address(ctypes.c_void_p):
    """Never an int: whether one of an address's size comes from a free list depends on the address (from 3.14 on)."""


LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = LIBC.calloc.restype = LIBC.realloc.restype = LIBC.aligned_alloc.restype = Address
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.calloc.argtypes = LIBC.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
LIBC.realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.posix_memalign.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]

API = ctypes.pythonapi
for domain in ("PyMem_Raw", "PyMem_", "PyObject_"):
    for name, arguments in (
        ("Malloc", [ctypes.c_size_t]),
        ("Calloc", [ctypes.c_size_t, ctypes.c_size_t]),
        ("Realloc", [ctypes.c_void_p, ctypes.c_size_t]),
        ("Free", [ctypes.c_void_p]),
    ):
        getattr(API, domain + name).argtypes = arguments
        getattr(API, domain + name).restype = Address

Row = ctypes.c_int64 * 100
# Made once: ctypes keeps what it knows a new array type by in a tuple, which may come from a free list.
Addresses = Address * 200
Text = ctypes.c_char * 700

HUGE = 2**62
NONES = [None] * 5000
NATIVE = {}


def native(blocks, size):
    """Writes down that the caller's line holds `blocks` blocks of `size` bytes of the C allocator."""
    frame = sys._getframe(1)
    NATIVE[f"{frame.f_code.co_filename}:{frame.f_lineno}"] = {"bytes": blocks * size, "blocks": blocks}


def slots(n):
    """A list of `n` places. A slice: `[None] * n` would leave its temporary list in the free list."""
    return NONES[:n]


def addresses(n):
    """Room for `n` addresses."""
    assert n <= Addresses._length_
    return Addresses()


def size_classes(n):
    """Small blocks of each of pymalloc's 32 size classes, one line each; a third of them is freed again."""
    source = ["def fill(rows, n):"]
    source.append("    for i in range(n): rows[0][i] = object()")
    source.append("    for i in range(n): rows[1][i] = i * 0.5")
    empty = sys.getsizeof(b"")
    for k in range(2, 32):
        source.append(f"    for i in range(n): rows[{k}][i] = bytes({max(2, 16 * (k + 1) - empty - k % 3)})")
    rows = [slots(n) for _ in range(32)]
    scope = {}
    exec(compile("\n".join(source), "<size classes>", "exec"), scope)
    scope["fill"](rows, n)
    for row in rows[2:]:
        for i in range(0, n, 3):
            row[i] = None
    return rows


def large(n):
    few = slots(min(n, 40))
    rows = [slots(n), slots(n), few]
    for i in range(n):
        rows[0][i] = bytes(480 + i % 64)
    for i in range(n):
        rows[1][i] = bytearray(5000 + i % 3)
    for i in range(len(few)):
        few[i] = bytes(200_000 + i)
    for i in range(0, n, 4):
        rows[1][i] = None
    return rows


def reallocated(n):
    """Blocks whose last owner is the line that reallocated them: growing, moving, shrinking, in place and across 512 bytes."""
    m = max(n // 20, 4)
    texts, tuples = slots(m), slots(m)
    grown, shrunk, cleared = [[] for _ in range(m)], [list(range(300)) for _ in range(m)], [list(range(90)) for _ in range(m)]
    for row in grown:
        for i in range(200):
            row.append(None)
    for row in shrunk:
        del row[20:]
    for row in cleared:
        while len(row) > 5:
            row.pop()
    buffers = [bytearray() for _ in range(m)]
    for buffer in buffers:
        for i in range(120):
            buffer += b"0123456789abcdef"
    trimmed = [bytearray(9000) for _ in range(m)]
    for buffer in trimmed:
        del buffer[3000:]
    small = [bytearray(4000) for _ in range(m)]
    for buffer in small:
        del buffer[100:]
    creeping = [bytearray(64) for _ in range(m)]
    for buffer in creeping:
        for i in range(40):
            buffer.append(i)
    numbers = [array.array("d") for _ in range(m)]
    for row in numbers:
        for i in range(150):
            row.append(1.0)
    fewer = [array.array("q", range(400)) for _ in range(m)]
    for row in fewer:
        while len(row) > 8:
            row.pop()
    for k in range(m):
        text = str(k)
        for i in range(60):
            text += "growing in place"
        texts[k] = text
    for k in range(m):
        tuples[k] = tuple(i for i in range(37))
    return grown, shrunk, cleared, buffers, trimmed, small, creeping, numbers, fewer, texts, tuples


def domains(n):
    """The allocator's own functions, called by name in each domain."""
    m = max(n // 10, 4)
    rows = [addresses(m) for _ in range(12)]
    for i in range(m):
        rows[0][i] = API.PyMem_RawMalloc(70)
    for i in range(m):
        rows[1][i] = API.PyMem_RawCalloc(3, 50)
    for i in range(m):
        rows[2][i] = API.PyMem_RawRealloc(API.PyMem_RawMalloc(10), 3000)
    for i in range(m):
        rows[3][i] = API.PyMem_Malloc(80)
    for i in range(m):
        rows[4][i] = API.PyMem_Calloc(7, 90)
    for i in range(m):
        rows[5][i] = API.PyMem_Realloc(API.PyMem_Malloc(600), 90)
    for i in range(m):
        rows[6][i] = API.PyObject_Malloc(110)
    for i in range(m):
        rows[7][i] = API.PyObject_Calloc(2, 300)
    for i in range(m):
        rows[8][i] = API.PyObject_Realloc(API.PyObject_Malloc(60), 700)
    for i in range(m):
        rows[9][i] = API.PyObject_Realloc(None, 200)
    for i in range(m):
        rows[10][i] = API.PyObject_Malloc(40)
        if API.PyObject_Realloc(rows[10][i], HUGE):
            raise MemoryError("a request of 4 EiB was granted")
    for i in range(m):
        rows[11][i] = API.PyMem_RawMalloc(40)
        if API.PyMem_RawRealloc(rows[11][i], HUGE):
            raise MemoryError("a request of 4 EiB was granted")
    for i in range(m):
        API.PyObject_Free(API.PyObject_Malloc(100 + i))
        API.PyMem_Free(API.PyMem_Malloc(300 + i))
        API.PyMem_RawFree(API.PyMem_RawMalloc(500 + i))
    API.PyObject_Free(None)
    return rows


def c_allocator(n):
    """Memory that only the C allocator knows: `NATIVE` is its truth."""
    m = max(n // 10, 4)
    rows = [addresses(m) for _ in range(5)]
    address = Address()
    for i in range(m):
        rows[0][i] = native(m, 777) or LIBC.malloc(777)
    for i in range(m):
        rows[1][i] = native(m, 800) or LIBC.calloc(8, 100)
    for i in range(m):
        rows[2][i] = native(m, 5000) or LIBC.realloc(LIBC.malloc(100), 5000)
    for i in range(m):
        rows[3][i] = native(m, 1024) or LIBC.aligned_alloc(64, 1024)
    for i in range(m):
        rows[4][i] = native(m, 900) or LIBC.posix_memalign(ctypes.byref(address), 128, 900) or address
    for i in range(m):
        LIBC.free(LIBC.malloc(1000 + i))
    return rows


def containers(n):
    rows = [slots(n) for _ in range(9)]
    for i in range(n):
        rows[0][i] = {"a": i, "b": None, "c": "text"}
    for i in range(n):
        rows[1][i] = [None, True, i]
    for i in range(n):
        rows[2][i] = (None, "x") * 15
    for i in range(n):
        rows[3][i] = {1, 2, 3}
    for i in range(n):
        rows[4][i] = frozenset((i, "a", "b", "c", "d", "e", "f"))
    for i in range(n // 10):
        rows[5][i] = {k: None for k in range(30)}
    for i in range(n // 10):
        rows[6][i] = collections.deque(range(10))
    for i in range(n // 10):
        rows[7][i] = collections.OrderedDict.fromkeys("abcdefgh")
    for i in range(n // 10):
        rows[8][i] = [[] for _ in range(12)]
    table = {}
    for i in range(n * 3):
        table[i] = None
    return rows, table


def texts(n):
    rows = [slots(n) for _ in range(9)]
    for i in range(n):
        rows[0][i] = "ascii %d" % i
    for i in range(n):
        rows[1][i] = f"caf\xe9 {i}"
    for i in range(n):
        rows[2][i] = "\u0416" * (20 + i % 5)
    for i in range(n):
        rows[3][i] = "\U0001f40d" * (30 + i % 5)
    for i in range(n):
        rows[4][i] = "/".join(("path", str(i), "leaf"))
    for i in range(n):
        rows[5][i] = struct.pack("<qqq", i, i, i)
    for i in range(n):
        rows[6][i] = 10**100 + i
    for i in range(n // 10):
        rows[7][i] = io.BytesIO(bytes(700 + i))
    for i in range(n // 10):
        rows[8][i] = decimal.Decimal(f"1.{i:040d}") + 1
    return rows


class Plain:
    def __init__(self, i):
        self.i = i
        self.name = "plain"


class Slotted:
    __slots__ = ("i", "name")

    def __init__(self, i):
        self.i = i
        self.name = "slotted"


@dataclasses.dataclass
class Record:
    i: int
    blob: bytes = b""


Point = collections.namedtuple("Point", [f"x{k}" for k in range(22)])


class Watched:
    pass


def instances(n):
    rows = [slots(n) for _ in range(8)]
    for i in range(n):
        rows[0][i] = Plain(i)
    for i in range(n):
        rows[1][i] = Slotted(i)
    for i in range(n):
        rows[2][i] = Record(i, bytes(30))
    for i in range(n):
        rows[3][i] = Point(*range(22))
    for i in range(n):
        rows[4][i] = types.SimpleNamespace(i=i)
    for i in range(n):
        rows[5][i] = ValueError(i, "kept")
    for i in range(n):
        rows[6][i] = Watched()
    for i in range(n):
        rows[7][i] = weakref.ref(rows[6][i], print)
    for i in range(0, n, 5):
        rows[0][i] = rows[1][i] = None
    return rows


def classes(n):
    """Types are dozens of blocks each."""
    m = max(n // 50, 4)
    made = slots(m)
    for i in range(m):
        made[i] = type("Made", (Plain,), {"number": i, "method": lambda self: self.i})
    return made


def functions(n):
    def outer(i):
        cell = b"c" * (40 + i % 9)

        def inner(argument=i):
            return cell, argument

        return inner

    rows = [slots(n) for _ in range(4)]
    for i in range(n):
        rows[0][i] = outer(i)
    for i in range(n):
        rows[1][i] = functools.partial(outer, i)
    for i in range(n):
        rows[2][i] = lambda argument=bytes(60): argument
    for i in range(n):
        rows[3][i] = Plain.__init__.__get__(rows)
    return rows


def cycles(n):
    kept = slots(n)
    for i in range(n):
        ring = [bytes(50)]
        ring.append(ring)
        kept[i] = ring
    for i in range(n):
        garbage = {"blob": bytes(90)}
        garbage["self"] = garbage
    gc.collect()
    return kept


def counted(i):
    step = bytes(100 + i % 8)
    yield step
    yield i


def delegating(i):
    yield bytes(70)
    yield from counted(i)


async def waiting(i):
    return i


def generators(n):
    rows = [slots(n) for _ in range(4)]
    for i in range(n):
        rows[0][i] = counted(i)
    for i in range(n):
        next(rows[0][i])
    for i in range(n):
        rows[1][i] = delegating(i)
    for i in range(n):
        next(rows[1][i])
        next(rows[1][i])
    for i in range(n):
        rows[2][i] = (bytes(k) for k in range(i, i + 2))
    for i in range(n):
        rows[3][i] = waiting(i)
    return rows


def threads(n):
    """Four threads at once, each with its own survivors on the same two lines."""

    def work(row, barrier):
        barrier.wait()
        for i in range(n):
            row[i] = bytes(120 + i % 4)
        for i in range(0, n, 2):
            row[i] = [None, i]

    rows, barrier = [slots(n) for _ in range(4)], threading.Barrier(4)
    crew = [threading.Thread(target=work, args=(row, barrier)) for row in rows]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join()
    return rows


def buffers(n):
    m = max(n // 10, 4)
    rows = [slots(m) for _ in range(5)]
    for i in range(m):
        rows[0][i] = Text()
    for i in range(m):
        rows[1][i] = Row()
    for i in range(m):
        rows[2][i] = array.array("l", bytes(1600))
    for i in range(m):
        rows[3][i] = memoryview(bytes(300))
    if numpy is not None:
        for i in range(m):
            rows[4][i] = numpy.full(5000 + i, 7, dtype=numpy.uint8)
        for i in range(m):
            rows.append(numpy.zeros((30, 30)))
        for i in range(0, m, 2):
            rows[4][i] = None
    return rows


def executed(n):
    """Code compiled at run time: its own objects, and what it allocates under file names of its own."""
    m = max(n // 8, 4)
    rows = [slots(m), slots(m), slots(m), slots(n)]
    for i in range(m):
        rows[0][i] = compile(f"def generated_{i}(a, b={i}):\n    return [a, b, {i}.5]\n", f"<generated {i}>", "exec")
    for i in range(m):
        rows[1][i] = compile(f"kept = [\n  bytes(200 + {i})\n  for k in range(30)]", f"<executed {i}>", "exec")
    gc.collect()
    for i in range(m):
        rows[2][i] = {}
        exec(rows[1][i], rows[2][i])
    for i in range(n):
        rows[3][i] = eval("bytes(64)")
    return rows


def doubled(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return [function(*arguments), bytes(130)]

    return wrapper


@doubled
@doubled
def decorated(i):
    return bytes(140 + i % 3)


KEPT_BY_CALLBACK = []


def remember(value):
    KEPT_BY_CALLBACK.append(bytes(150 + value % 5))
    return value


def callbacks(n):
    """C functions that call back into Python, where the survivors are allocated."""
    KEPT_BY_CALLBACK.clear()
    sorted(range(n), key=remember)
    mapped = list(map(lambda value: bytes(160 + value % 3), range(n)))
    folded = functools.reduce(lambda kept, value: kept + [bytes(170)] if value % 4 == 0 else kept, range(n), [])
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, Address, Address)
    compared = []

    def compare(left, right):
        compared.append(bytes(180))
        return 0

    values = (ctypes.c_int * 256)()
    LIBC.qsort(values, 256, 4, prototype(compare))
    return list(KEPT_BY_CALLBACK), mapped, folded, compared, [decorated(i) for i in range(n)]


def parsed(n):
    """Survivors that C code allocates inside one call."""
    m = max(n // 10, 4)
    documents, errors = slots(m), slots(m)
    text = json.dumps({"rows": [{"id": i, "name": "n" * (i % 40), "score": i / 3} for i in range(40)]})
    gc.collect()
    for i in range(m):
        documents[i] = json.loads(text)
    for i in range(m):
        try:
            int("no number %d" % i)
        except ValueError as error:
            errors[i] = error
    return documents, errors


def churned(n):
    """Much that dies at once, and nothing that stays."""
    total = 0
    for i in range(n * 4):
        row = {"id": i, "tags": [str(k) for k in range(i, i + 6)], "body": bytes(i % 900)}
        total += len(json.dumps(row["tags"])) + len(sorted(row["tags"], reverse=True))
    return total


PHASES = [
    size_classes, large, reallocated, domains, c_allocator, containers, texts, instances, classes, functions, cycles,
    generators, threads, buffers, executed, callbacks, parsed, churned,
]  # fmt: skip


def run(n):
    """All phases. A full collection after each empties the free lists of floats, tuples, lists and dicts, so that no
    block is handed from one line to another without the allocator, where tracemalloc and a tracer would disagree."""
    kept = []
    for phase in PHASES:
        kept.append(phase(n))
        gc.collect()
    return kept
