"""A batch job on numpy and pandas: rows into a frame, joined, grouped, sorted, and a report out of it."""

import numpy
import pandas

ROWS = 2000
RANDOM = numpy.random.default_rng(7)
CUSTOMERS = pandas.DataFrame({"customer": range(200), "region": ["north", "east", "south", "west"] * 50})


def rows():
    """As they come from a database: a tuple of Python objects each."""
    customers = RANDOM.integers(0, 200, ROWS).tolist()
    cents = RANDOM.integers(100, 10000, ROWS).tolist()
    return [(number, customer, f"sku-{customer * 7 % 50}", paid) for number, (customer, paid) in enumerate(zip(customers, cents))]


def unit():
    orders = pandas.DataFrame.from_records(rows(), columns=["order", "customer", "sku", "cents"])
    orders["total"] = orders["cents"].to_numpy() * 1.19
    joined = orders.merge(CUSTOMERS, on="customer")
    best = joined.groupby(["region", "sku"])["total"].sum().sort_values(ascending=False).head(20)
    spread = numpy.percentile(joined["total"].to_numpy(), [5, 50, 95])
    report = [{"region": region, "sku": sku, "total": f"{total:.2f}"} for (region, sku), total in best.items()]
    return len(report) + len(spread)
