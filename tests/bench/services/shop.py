"""What each of the measured services does for a request: takes an order, looks its lines up, prices them, and sums up.

The last thousand orders are kept. That is what a service holds on to, and no leak. With SHOP_LEAKS set, one order in ten is kept
for good, which is one.
"""

import json
import os
import tracemalloc
from collections import OrderedDict

KEPT = 1000
STOCK = {
    "sku-%d" % i: {"name": "Widget %d" % i, "cents": 199 + 37 * i, "tags": ["red", "new", "no-%d" % (i % 7)], "left": i % 5}
    for i in range(500)
}

_recent = OrderedDict()
_orders = 0
_audit = [] if os.environ.get("SHOP_LEAKS") else None


class Line:
    def __init__(self, row):
        self.item = STOCK[row["sku"]]
        self.sku = row["sku"]
        self.count = int(row["count"])

    @property
    def cents(self):
        return self.count * self.item["cents"]

    def as_dict(self):
        tags = sorted(tag.upper() for tag in self.item["tags"])
        return {"sku": self.sku, "name": self.item["name"], "count": self.count, "price": money(self.cents), "tags": tags}


def money(cents):
    return "%d.%02d" % divmod(cents, 100)


def order(body):
    """The answer to an order that came as JSON, as a value for JSON."""
    global _orders
    wanted = json.loads(body)
    lines = [Line(row) for row in wanted["lines"]]
    _orders += 1
    _recent[_orders] = {"customer": wanted["customer"], "cents": sum(line.cents for line in lines)}
    if _audit is not None and _orders % 10 == 0:
        _audit.append(_recent[_orders])
    while len(_recent) > KEPT:
        _recent.popitem(last=False)
    return {
        "order": _orders,
        "customer": wanted["customer"].title(),
        "lines": [line.as_dict() for line in lines],
        "late": [line.sku for line in lines if line.count > line.item["left"]],
        "total": money(_recent[_orders]["cents"]),
    }


def trace(frames):
    """Lets tracemalloc keep so many frames; 0 stops it."""
    if frames:
        tracemalloc.start(frames)
    else:
        tracemalloc.stop()
