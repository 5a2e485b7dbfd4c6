"""Makes the exports of a shop that is not there, as messy as they come: python examples/shop_data.py FOLDER

Customers like some kinds of product more than others, and buy on 100 days and in the week after them. FOLDER gets

- orders.csv, orders_next.csv: customer, sku, ordered_at, quantity. Dates in four ways of writing, ids with blanks
  around them, blank lines, rows twice, returns as a quantity of -1 and, in the first, lines that are cut off;
- products.csv: sku, title, brand, text; some never ordered, some without a text, some in the file twice;
- stock.csv: what can be delivered, a sku a line; some of it is in no other file;
- products.parquet: sku and a vector of its words, which stands in for a text encoder (prepare has one: --text).

The same seed gives the same files.
"""

import csv
import datetime
import random
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import polars as pl

SEED = 7
NUM_CUSTOMERS, NUM_PRODUCTS, NUM_ORDERS = 800, 400, 16_000
DAYS, NEXT_DAYS = 100, 7
KINDS = ("tent", "boot", "lamp", "pan", "rope", "map", "jacket", "bottle", "stove", "sock", "knife", "hat")
WORDS = ("light", "warm", "blue", "steel", "small", "dry", "strong", "soft", "green", "folding")
WIDTH = 64  # of the vectors
START = datetime.datetime(2025, 1, 6, 6, 0)


def main(folder: str) -> None:
    """Writes the files."""
    rng, out = random.Random(SEED), Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    kinds = [rng.choice(KINDS) for _ in range(NUM_PRODUCTS)]
    popularity = [rng.paretovariate(2.5) for _ in range(NUM_PRODUCTS)]
    popularity[-20:] = [0.0] * 20  # nobody has ordered these yet
    orders = sorted(draw_orders(rng, kinds, popularity))
    cut = START + datetime.timedelta(days=DAYS)
    write_orders(rng, out / "orders.csv", [order for order in orders if order[0] < cut], cut_off=15)
    write_orders(rng, out / "orders_next.csv", [order for order in orders if order[0] >= cut], cut_off=0)
    products = [make_product(rng, number, kind) for number, kind in enumerate(kinds)]
    with open(out / "products.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("sku", "title", "brand", "text"))
        writer.writerows([*products, *products[:5]])
    vectors = pl.Series(
        [word_vector(" ".join(product[1:])).tolist() for product in products], dtype=pl.List(pl.Float32)
    )
    in_stock = [sku for sku, *_ in products if rng.random() < 0.9]
    (out / "stock.csv").write_text("\n".join([*in_stock, "P-900", "P-901", ""]), encoding="utf-8")
    pl.DataFrame({"sku": [sku for sku, *_ in products], "vector": vectors}).write_parquet(out / "products.parquet")


def draw_orders(
    rng: random.Random, kinds: list[str], popularity: list[float]
) -> Iterable[tuple[datetime.datetime, str, str, int]]:
    """(time, customer, sku, quantity); a few are returned later."""
    activity = [rng.paretovariate(2) for _ in range(NUM_CUSTOMERS)]
    liked = [rng.sample(KINDS, 2) for _ in range(NUM_CUSTOMERS)]
    weights = [[p * (30 if kind in own else 1) for kind, p in zip(kinds, popularity, strict=True)] for own in liked]
    for customer in rng.choices(range(NUM_CUSTOMERS), activity, k=NUM_ORDERS * (DAYS + NEXT_DAYS) // DAYS):
        (product,) = rng.choices(range(NUM_PRODUCTS), weights[customer])
        time = START + datetime.timedelta(minutes=rng.randrange((DAYS + NEXT_DAYS) * 24 * 60))
        yield time, f"C{customer:04}", f"P-{product:03}", rng.randint(1, 3)
        if rng.random() < 0.03:
            yield time + datetime.timedelta(days=2), f"C{customer:04}", f"P-{product:03}", -1


def write_orders(rng: random.Random, path: Path, orders: Iterable[tuple], cut_off: int) -> None:
    """Args: a source of mess, the file, the orders by time, and how many lines are cut off."""
    lines = []
    for time, customer, sku, quantity in orders:
        customer, sku = (f" {one} " if rng.random() < 0.02 else one for one in (customer, sku))
        line = f"{customer},{sku},{rng.choice(DATES)(time)},{quantity}"
        lines += [line] * (2 if rng.random() < 0.02 else 1) + [""] * (rng.random() < 0.005)
    for _ in range(cut_off):
        lines.insert(rng.randrange(len(lines)), "C0001,P-0")
    path.write_text("\n".join(["customer,sku,ordered_at,quantity", *lines, ""]), encoding="utf-8")


DATES = (
    lambda time: time.strftime("%Y-%m-%d"),
    lambda time: time.strftime("%Y-%m-%d %H:%M:%S"),
    lambda time: time.strftime("%Y-%m-%dT%H:%MZ"),
    lambda time: time.strftime("%Y%m%dT%H%M%SZ"),
)


def make_product(rng: random.Random, number: int, kind: str) -> tuple[str, str, str, str]:
    """sku, title, brand, text"""
    first, second = rng.sample(WORDS, 2)
    text = "" if rng.random() < 0.05 else f"A {first} and {second} {kind}, for people who like a {kind}."
    return f"P-{number:03}", f"{first.capitalize()} {kind} {number}", f"Brand {rng.randrange(20)}", text


def word_vector(text: str) -> np.ndarray:
    """How often each word occurs, words shared out over WIDTH places by a checksum; of length 1."""
    vector = np.zeros(WIDTH, np.float32)
    for word in text.lower().replace(",", " ").split():
        vector[zlib.crc32(word.encode()) % WIDTH] += 1
    return vector / np.linalg.norm(vector)


if __name__ == "__main__":
    main(*sys.argv[1:])
