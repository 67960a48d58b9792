"""Stacks with their truth: at each point the script writes down its own stack and allocates a survivor of a size of its own.

The survivor is one block of `size` bytes in the obj domain. Sizes are 512 apart: a small block that a free list still holds
for the same line does not make one size look like the next. After DONE comes one line of JSON: a list of
{"name", "size", "stack": [{"function", "file", "line"}, ...]}, most recent call first.
"""

import asyncio
import ctypes
import functools
import json
import os
import sys
import tempfile
import threading
import weakref

SURVIVORS = []
POINTS = []
FIRST_SIZE = 20_000
STEP = 512
EMPTY_BYTES = sys.getsizeof(b"")


def size(name, lines_up=0):
    """Writes down the caller's stack. What it returns makes the caller's `bytes(...)` a block of the size that is written down.
    `lines_up`: how many lines above the call of this function the call of `bytes` is, in an expression of several lines."""
    stack, frame = [], sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        function = getattr(code, "co_qualname", code.co_name)
        stack.append({"function": function, "file": code.co_filename, "line": frame.f_lineno})
        frame = frame.f_back
    stack[0]["line"] -= lines_up
    block = FIRST_SIZE + STEP * len(POINTS)
    POINTS.append({"name": name, "size": block, "stack": stack})
    return block - EMPTY_BYTES


keep = SURVIVORS.append


def function():
    keep(bytes(size("function")))
    keep(
        bytes(
            size("expression of several lines", lines_up=1),
        )
    )


class Shape:
    keep(bytes(size("class body")))

    def __init__(self):
        keep(bytes(size("__init__")))

    def method(self):
        keep(bytes(size("method")))

    @classmethod
    def of_class(cls):
        keep(bytes(size("class method")))

    @staticmethod
    def of_none():
        keep(bytes(size("static method")))

    @property
    def area(self):
        keep(bytes(size("property")))

    def __getattr__(self, name):
        keep(bytes(size("__getattr__")))

    def __eq__(self, other):
        keep(bytes(size("__eq__ called by list.index")))
        return True

    __hash__ = None

    def __enter__(self):
        keep(bytes(size("__enter__")))

    def __exit__(self, *error):
        keep(bytes(size("__exit__")))


def methods():
    shape = Shape()
    shape.method()
    Shape.of_class()
    Shape.of_none()
    shape.area
    shape.missing
    [shape].index(Shape.__new__(Shape))
    with shape:
        pass
    (lambda: keep(bytes(size("lambda"))))()

    class Inner:
        keep(bytes(size("class body in a function")))


def comprehensions():
    [keep(bytes(size("list comprehension"))) for _ in range(1)]
    {keep(bytes(size("set comprehension"))) for _ in range(1)}
    {keep(bytes(size("dict comprehension"))): None for _ in range(1)}
    list(keep(bytes(size("generator expression"))) for _ in range(1))
    [[keep(bytes(size("nested comprehension"))) for _ in range(1)] for _ in range(1)]
    any(keep(bytes(size("generator expression under any"))) for _ in range(1))


def generator():
    keep(bytes(size("generator, first part")))
    yield 1
    keep(bytes(size("generator, second part")))
    yield 2


def delegating():
    keep(bytes(size("generator that delegates")))
    yield from generator()


def generators():
    suspended = generator()
    next(suspended)

    def resume_elsewhere(value):
        keep(bytes(size("beside a suspended generator")))
        return next(value)

    resume_elsewhere(suspended)
    for _ in delegating():
        keep(bytes(size("body of a loop over a generator")))


async def innermost():
    keep(bytes(size("coroutine before it waits")))
    await asyncio.sleep(0)
    keep(bytes(size("coroutine after it waited")))


async def asynchronous():
    for number in range(2):
        yield number
        keep(bytes(size("asynchronous generator")))


class Awaitable:
    def __await__(self):
        keep(bytes(size("__await__")))
        return (yield from asyncio.sleep(0).__await__())


async def chain():
    await innermost()
    await Awaitable()
    await asyncio.create_task(innermost())
    [keep(bytes(size("asynchronous comprehension"))) async for _ in asynchronous()]
    asyncio.get_running_loop().call_soon(lambda: keep(bytes(size("callback of the event loop"))))
    await asyncio.sleep(0)


def decorator(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        keep(bytes(size("wrapper of a decorator")))
        return function(*arguments)

    return wrapper


@decorator
@decorator
def decorated():
    keep(bytes(size("decorated function")))


@functools.lru_cache(maxsize=None)
def cached(argument):
    keep(bytes(size("function under lru_cache")))


@functools.singledispatch
def dispatched(argument):
    keep(bytes(size("function under singledispatch")))


def executed():
    exec("keep(bytes(size('exec of a string')))")
    exec(compile("\n\n\ndef made():\n  keep(bytes(size('function made by exec')))\nmade()", "<made>", "exec"), globals())
    eval("keep(bytes(size('eval')))")
    eval("[keep(bytes(size('comprehension in eval'))) for _ in range(1)]")


def generated():
    """Code that dies at once, so that the next lives at its address: each has a file and a line of its own."""
    for number in range(200):
        source = "\n" * (number % 50) + f"keep(bytes(size('generated {number}')))"
        exec(compile(source, f"<generated {number}>", "exec"))


def of_two_files():
    """Equal code in two files and at two lines: equal bytecode, other stacks."""
    for number in range(4):
        source = "\n" * number + "def twin():\n    keep(bytes(size('twin')))\n"
        scope = {"keep": keep, "size": size}
        exec(compile(source, f"<twin {number % 2}>", "exec"), scope)
        scope["twin"]()


def long_code():
    """A line far from the start of a big code object, past jumps, and line numbers that go backwards and in large steps."""
    body = ["def long_function(flag):", "    for turn in range(2):"]
    for number in range(700):
        body.append(f"        if flag == {number + 5}: value = [{number}, flag,")
        body.append(f"            (turn, {number})]")
    body += ["\n" * 3000, "        if turn: keep(bytes(size('end of a long function')))"]
    scope = {"keep": keep, "size": size}
    exec(compile("\n".join(body), "<long>", "exec"), scope)
    scope["long_function"](0)


def names():
    """File and function names that are not ASCII."""
    source = "def \u0444\u0443\u043d\u043a\u0446\u0438\u044f():\n    keep(bytes(size('names in Cyrillic')))\n"
    source += "def caf\xe9():\n    keep(bytes(size('name in Latin-1')))\n"
    scope = {"keep": keep, "size": size}
    exec(compile(source, "<\u0444\u0430\u0439\u043b \U0001f40d>", "exec"), scope)
    scope["\u0444\u0443\u043d\u043a\u0446\u0438\u044f"]()
    scope["caf\xe9"]()


def callbacks():
    sorted([1], key=lambda value: keep(bytes(size("key of sorted"))))
    list(map(lambda value: keep(bytes(size("map"))), [1]))
    list(filter(lambda value: keep(bytes(size("filter"))), [1]))
    functools.reduce(lambda left, right: keep(bytes(size("reduce"))), [1, 2])
    functools.partial(lambda: keep(bytes(size("partial"))))()
    max([1], key=lambda value: keep(bytes(size("key of max"))))
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)

    def compare(left, right):
        if not any(point["name"] == "callback of ctypes" for point in POINTS):
            keep(bytes(size("callback of ctypes")))
        return 0

    ctypes.CDLL(None).qsort((ctypes.c_int * 2)(), 2, 4, prototype(compare))


def threads():
    def work(name):
        keep(bytes(size(name)))
        nested = threading.Thread(target=lambda: keep(bytes(size(name + ", started by a thread"))))
        nested.start()
        nested.join()

    for number in range(3):
        thread = threading.Thread(target=work, args=(f"thread {number}",))
        thread.start()
        thread.join()


def deep(depth, name):
    if depth == 0:
        keep(bytes(size(name)))
    else:
        deep(depth - 1, name)


def deep_through_c(depth):
    """A new C frame of the interpreter at each level."""
    if depth == 0:
        keep(bytes(size("recursion through C")))
    else:
        list(map(deep_through_c, [depth - 1]))


class Dying:
    def __del__(self):
        keep(bytes(size("__del__")))


def ends():
    Dying()
    subject = Shape()
    reference = weakref.ref(subject, lambda _: keep(bytes(size("callback of a weak reference"))))
    del subject
    assert reference() is None
    try:
        raise KeyError
    except KeyError:
        keep(bytes(size("except")))
    finally:
        keep(bytes(size("finally")))


def imports():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "leaktrace_imported.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write("from __main__ import keep, size\n\nkeep(bytes(size('import of a module')))\n")
        sys.path.insert(0, folder)
        import leaktrace_imported  # noqa: F401

        sys.path.remove(folder)


def work():
    function()
    methods()
    comprehensions()
    generators()
    asyncio.run(chain())
    decorated()
    cached(1)
    dispatched(1)
    executed()
    generated()
    of_two_files()
    long_code()
    names()
    callbacks()
    threads()
    deep(50, "recursion")
    deep(300, "recursion deeper than the walk")
    deep_through_c(20)
    ends()
    imports()


def main():
    sys.setrecursionlimit(5000)
    work()
    SURVIVORS.clear()
    POINTS.clear()
    sys.modules.pop("leaktrace_imported")
    cached.cache_clear()
    print("READY", json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.readline()
    work()
    print("DONE", json.dumps(POINTS), flush=True)
    sys.stdin.readline()
    os._exit(0)


if __name__ == "__main__":
    main()
