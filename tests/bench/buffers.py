"""Large blocks: bytes, arrays and growing buffers that all come from the C allocator, and some copying between them."""

from array import array

CHUNK = bytes(range(256)) * 16


def receive(size):
    """Grows a buffer chunk by chunk, as reading from a socket does."""
    buffer = bytearray()
    while len(buffer) < size:
        buffer += CHUNK
    return bytes(buffer)


def unit():
    body = receive(1 << 16)
    parts = [body[i : i + 4096] for i in range(0, len(body), 4096)]
    numbers = array("d", parts[0][:2048]) * 4
    joined = b"".join(parts)
    return len(joined.replace(b"\x00\x01", b"\x02")) + len(numbers.tobytes())
