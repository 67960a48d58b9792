"""Leaks: memory of the C allocator, taken through ctypes and never given back. Python's own allocator sees nothing of it."""

import ctypes

import service

LIBC = ctypes.CDLL(None)
LIBC.malloc.restype = ctypes.c_void_p
LIBC.malloc.argtypes = [ctypes.c_size_t]
LIBC.free.argtypes = [ctypes.c_void_p]
LIBC.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


def transform(n):
    image = LIBC.malloc(1500 + n % 64)  # LEAK
    scratch = LIBC.malloc(4000)
    LIBC.memset(image, n & 255, 1500)
    LIBC.free(scratch)


def step(n):
    service.churn(n)
    transform(n)


if __name__ == "__main__":
    service.serve(step, 200)
