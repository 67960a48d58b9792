"""A bare allocation loop: hardly anything but small objects made and let go, at a shallow stack."""


def unit():
    for _ in range(10):
        kept = [object() for _ in range(100)]
        for i in range(100):
            kept[i] = [i]
