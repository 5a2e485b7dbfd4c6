"""HTML from Python, safe by default: text is escaped wherever it goes in, and only what was made here is markup."""

import html
from collections.abc import Iterable, Sequence


class Markup(str):
    """Text that is HTML already."""


def element(tag: str, *children: str, **attributes: str) -> Markup:
    """<tag attributes>children</tag>; children and values that are not Markup are escaped.

    Args:
      tag: name of the element.
      children: text or Markup.
      attributes: an underscore at the end of a name is dropped (class_), others become hyphens (aria_label).
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{written}>{join(children)}</{tag}>")


def join(children: Iterable[str]) -> Markup:
    """Children one after another, what is not Markup escaped."""
    return Markup("".join(child if isinstance(child, Markup) else html.escape(child) for child in children))


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], class_: str = "") -> Markup:
    """A table whose first column names the rows, in a box that scrolls sideways where the screen is narrow."""
    head = element("tr", *(element("th", name, scope="col") for name in header))
    body = [
        element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))
        for name, *cells in rows
    ]
    whole = element("table", element("caption", caption), element("thead", head), element("tbody", *body))
    return element("div", whole, class_=f"table {class_}".strip(), role="region", aria_label=caption, tabindex="0")
