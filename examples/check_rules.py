"""Counts what breaks a shop's rules: python examples/check_rules.py LISTS.parquet STOCK.csv PRODUCTS.csv ORDERS.csv ...

Reads these files, and nothing else. Ends with code 1 where a list holds a product that is not in stock, or more than
two of a brand, or where no list holds a product that nobody has ordered.
"""

import csv
import sys
from collections import Counter
from pathlib import Path

import polars as pl


def main(lists: str, stock: str, products: str, *orders: str) -> int:
    """The exit code."""
    in_stock = set(Path(stock).read_text(encoding="utf-8").split())
    brand_of = {row["sku"]: row["brand"] for row in rows_of(products)}
    ordered = {row["sku"].strip() for path in orders for row in rows_of(path) if row["quantity"]}
    table = pl.read_parquet(lists)
    listed = list(zip(table["user"], table["item"], strict=True))
    not_in_stock = sum(item not in in_stock for _, item in listed)
    brands = Counter((user, brand_of[item]) for user, item in listed)
    too_many = sum(count > 2 for count in brands.values())
    new = sum(item not in ordered for _, item in listed)
    print(
        f"{lists}: {not_in_stock} places not in stock, {too_many} times more than two of a brand, {new} of "
        f"{len(listed)} places for products that nobody has ordered"
    )
    return int(bool(not_in_stock or too_many or not new))


def rows_of(path: str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
