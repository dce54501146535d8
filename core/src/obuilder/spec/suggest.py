"""The nearest of some names to one that was not found: "did you mean"."""

import difflib
from collections.abc import Iterable
from itertools import islice

__all__ = ["nearest"]

# Comparing costs the product of the lengths, and nobody mistypes longer names by a letter or two.
_LONGEST = 64
_MOST = 1000


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was most likely meant to be, or None if none is near.

    Case does not count against a choice. Only the first thousand are looked at.
    """
    if len(word) > _LONGEST:
        return None
    by_folded: dict[str, str] = {}
    for choice in islice(choices, _MOST):
        if len(choice) <= _LONGEST:
            by_folded.setdefault(choice.casefold(), choice)
    found = difflib.get_close_matches(word.casefold(), by_folded, n=1)
    return by_folded[found[0]] if found else None
