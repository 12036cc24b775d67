"""Pages with generated parts: each part is between `<!-- its name -->` and `<!-- end -->`."""

from collections.abc import Mapping

_END = "<!-- end -->"


def fill(page: str, parts: Mapping[str, str]) -> str:
    """Replace parts of a page.

    Raises:
        ValueError: The page has no place for one of them.
    """
    for name, part in parts.items():
        mark = f"<!-- {name} -->\n"
        before, found, rest = page.partition(mark)
        _, ended, after = rest.partition(_END)
        if not found or not ended or mark in after:
            raise ValueError(f"Expected {mark.strip()} once in the page, and {_END} behind it.")
        page = f"{before}{mark}{part}\n{_END}{after}"
    return page
