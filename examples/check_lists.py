"""Counts what nobody should be recommended: python examples/check_lists.py LISTS.parquet ORDERS.csv ...

Reads the orders and the lists, and nothing else. Ends with code 1 where a list holds an item that its user has bought,
or has an item twice.
"""

import csv
import sys

import polars as pl


def main(lists: str, *orders: str) -> int:
    """The exit code."""
    bought = set()
    for path in orders:
        with open(path, newline="", encoding="utf-8") as file:
            rows = csv.DictReader(file)
            bought |= {(row["customer"].strip(), row["sku"].strip()) for row in rows if row["quantity"]}
    table = pl.read_parquet(lists)
    listed = list(zip(table["user"], table["item"], strict=True))
    wrong = [pair for pair in listed if pair in bought]
    print(
        f"{lists}: {table['user'].n_unique()} users, {len(listed)} places, {len(bought)} pairs bought; "
        f"{len(wrong)} bought items are in the lists, {len(listed) - len(set(listed))} items twice"
    )
    return int(bool(wrong) or len(set(listed)) < len(listed))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
