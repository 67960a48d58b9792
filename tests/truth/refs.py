"""A heap with containers of all kinds, and what the interpreter itself says of who refers to whom in it.

Prints READY and waits. Then, for each line on stdin: `sample N` answers with N random tracked-or-not objects of the heap and the
addresses of what gc.get_referrers names for each; `eval EXPRESSION` with the id of what the expression is; `quit` ends it.
Nothing is collected or made meanwhile that would change the answers: all is prepared before READY.
"""

import asyncio
import collections
import contextvars
import ctypes
import functools
import gc
import itertools
import json
import os
import random
import sys
import threading
import types
import weakref


class Plain:
    def __init__(self, *values):
        self.first, self.second = values
        self.more = list(values)


class Slotted:
    __slots__ = ("left", "right", "__weakref__")

    def __init__(self, left, right):
        self.left, self.right = left, right


class Both(Slotted):
    def __init__(self, left, right):
        super().__init__(left, right)
        self.extra = [left]


class Rewritten:
    """Its instances lose their inline values."""

    def __init__(self, value):
        self.__dict__ = {"value": value, 7: [value]}


class Many:
    def __init__(self, value):
        for index in range(40):
            setattr(self, "field%d" % index, value)


class OwnDict(dict):
    pass


class OwnList(list):
    __slots__ = ("note",)


class OwnTuple(tuple):
    pass


class OwnInt(int):
    pass


class OwnText(str):
    pass


class Meta(type):
    pass


class Made(metaclass=Meta):
    attribute = ["of a class"]


def marker():
    """A fresh container: what is looked for."""
    return [object()]


def closure(value):
    other = marker()

    def inner(argument=value):
        return value, other, argument

    return inner


def generator(value):
    local = marker()
    yield value
    yield local


async def coroutine(value):
    local = marker()
    await asyncio.sleep(1000, value)
    return local


async def async_generator(value):
    local = marker()
    yield value
    yield local


def failing(value):
    local = marker()
    raise ValueError(value, local)


def error(value):
    try:
        try:
            failing(value)
        except ValueError as inner:
            raise KeyError(value) from inner
    except KeyError as outer:
        return outer


@functools.lru_cache(maxsize=100)
def bounded(value):
    return [value]


@functools.lru_cache(maxsize=None)
def unbounded(value):
    return [value]


class Partial(functools.partial):
    pass


class Structure(ctypes.Structure):
    _fields_ = [("number", ctypes.c_int), ("object", ctypes.py_object)]


def ignore(*_):
    """A callback."""


LOCAL = threading.local()
ROOT = {}


def build():
    keep = ROOT
    for n in range(12):
        key = ("user", n)
        shared = marker()
        keep[key] = {
            "dict": {n: marker(), "text": marker(), (n, "t"): marker(), 1.5: marker()},
            "big": {i: marker() for i in range(n * 40)},
            "list": [marker() for _ in range(n)],
            "long": [marker() for _ in range(300)],
            "tuple": (marker(), (marker(), n)),
            "set": {Slotted(i, marker()) for i in range(n * 3)},
            "frozenset": frozenset(Slotted(i, marker()) for i in range(n)),
            "deque": collections.deque([marker() for _ in range(n * 17)], maxlen=500),
            "plain": Plain(marker(), shared),
            "slots": Slotted(marker(), shared),
            "both": Both(marker(), shared),
            "rewritten": Rewritten(marker()),
            "many": Many(marker()),
            "own dict": OwnDict(a=marker()),
            "own list": OwnList([marker()]),
            "own tuple": OwnTuple([marker()]),
            "own int": OwnInt(n),
            "own text": OwnText("x"),
            "class": Meta("Made%d" % n, (Made,), {"held": marker()}),
            "function": closure(marker()),
            "lambda": lambda kept=shared: kept,
            "method": Plain(marker(), shared).__init__,
            "builtin": marker().append,
            "cell": types.CellType(marker()) if hasattr(types, "CellType") else closure(n).__closure__[0],
            "generator": generator(marker()),
            "coroutine": coroutine(marker()),
            "async generator": async_generator(marker()),
            "error": error(marker()),
            "weak": weakref.ref(Both, [marker()].append),
            "property": property(closure(marker()), closure(marker())),
            "static": staticmethod(closure(marker())),
            "class method": classmethod(closure(marker())),
            "partial": functools.partial(closure(marker()), marker(), key=marker()),
            "own partial": Partial(closure(marker()), marker()),
            "ordered": collections.OrderedDict((i, marker()) for i in range(n)),
            "default": collections.defaultdict(marker),
            "counter": collections.Counter(str(n)),
            "chain map": collections.ChainMap({n: marker()}, {}),
            "chain": itertools.chain([marker()], [marker()]),
            "product": itertools.product([marker()], [marker()]),
            "cycle": itertools.cycle([marker()]),
            "tee": itertools.tee([marker() for _ in range(5)]),
            "group": itertools.groupby([marker()]),
            "zip": zip([marker()], [marker()]),
            "map": map(closure(marker()), [marker()]),
            "enumerate": enumerate([marker()]),
            "iterator": iter([marker()]),
            "keys": {n: marker()}.keys(),
            "values": iter({n: marker()}.values()),
            "slice": slice(marker(), None),
            "view": memoryview(b"x" * 10),
            "module": types.ModuleType("made%d" % n),
            "namespace": types.SimpleNamespace(a=marker()),
            "proxy": types.MappingProxyType({n: marker()}),
            "structure": Structure(1, marker()),
            "array": (ctypes.py_object * 3)(marker(), marker(), marker()),
            "pointer": ctypes.pointer(ctypes.c_int(3)),
            "context": contextvars.copy_context(),
            "shared": shared,
        }
        keep[key]["default"][n]
        keep[key]["module"].held = marker()
        next(keep[key]["generator"])
        next(keep[key]["tee"][0])
        for kept in ("dict", "list"):
            keep[key]["again " + kept] = keep[key][kept]
        bounded(n)
        unbounded(("key", n))
    variable = contextvars.ContextVar("variable")
    context = contextvars.copy_context()
    for n in range(40):
        own = contextvars.ContextVar("variable%d" % n)
        context.run(own.set, marker())
        keep[("variable", n)] = own
    keep["context"], keep["variable"] = context, variable
    loop = asyncio.new_event_loop()
    futures = [loop.create_future() for _ in range(5)]
    for future in futures:
        future.add_done_callback(functools.partial(ignore, marker()))
    futures[0].set_result(marker())
    futures[1].set_exception(ValueError(marker()))
    tasks = [loop.create_task(coroutine(marker())) for _ in range(5)]
    loop.run_until_complete(asyncio.sleep(0))
    keep["loop"], keep["futures"], keep["tasks"] = loop, futures, tasks
    LOCAL.held = marker()
    LOCAL.more = [marker()]
    old = Plain(marker(), marker())
    del old.first
    keep["deleted"] = old


def is_static(held):
    """Whether it is static data of the interpreter, which is no part of the heap."""
    if isinstance(held, type):
        return not held.__flags__ & 1 << 9
    # Asking for what is imported lazily changes it; the empty mapping of contexts is static.
    if type(held).__name__ in ("lazy_import", "hamt"):
        return True
    return type(held) in STATIC or type(held) in (tuple, frozenset) and not held


STATIC = (type(None), type(...), type(NotImplemented), type(contextvars.Token.MISSING), bool, int, str, bytes)


def containers():
    """Objects whose referrers are asked for: those of the heap that is built here, of every type alike."""
    seen, queue, by_type = {id(ROOT)}, collections.deque([ROOT]), {}
    skip = (types.ModuleType, types.CodeType)
    while queue:
        current = queue.popleft()
        for held in gc.get_referents(current):
            if id(held) not in seen and not isinstance(held, skip) and not is_static(held):
                seen.add(id(held))
                by_type.setdefault(type(held), []).append(held)
                if gc.is_tracked(held) and len(seen) < 200000:
                    queue.append(held)
    return by_type


def sample(number):
    """So many different objects: a kind is chosen first, so that rare kinds are looked at as often as common ones."""
    random.seed(number)
    by_type = containers()
    kinds = sorted(by_type, key=lambda kind: (kind.__module__, kind.__qualname__))
    chosen, taken = [], set()
    while len(chosen) < number:
        held = random.choice(by_type[random.choice(kinds)])
        if id(held) not in taken:
            taken.add(id(held))
            chosen.append(held)
    return chosen


def main():
    build()
    gc.collect()
    gc.disable()
    print("READY", json.dumps({"pid": os.getpid()}), flush=True)
    environment = {"sys": sys, "gc": gc}
    chosen = []
    while True:
        line = sys.stdin.readline().strip()
        word, _, rest = line.partition(" ")
        if word == "sample":
            chosen = sample(int(rest))
            gc.collect()
            print(json.dumps([id(held) for held in chosen]), flush=True)
        elif word == "referrers":
            # What holds the objects only because they are asked for is left out, and what the collector does not track.
            own = {id(chosen), id(sys._getframe())}
            answers = []
            for held in chosen:
                answers.append(sorted(set(map(id, gc.get_referrers(held))) - own))
            del held
            tracked = [id(one) for one in gc.get_objects() if id(one) not in own]
            print(json.dumps({"referrers": answers, "tracked": tracked}), flush=True)
            del answers, tracked
        elif word == "eval":
            try:
                print(json.dumps(id(eval(rest, environment))), flush=True)
            except Exception as failure:
                print(json.dumps(repr(failure)), flush=True)
        else:
            break


if __name__ == "__main__":
    main()
