"""How many steps are made at once, and which numbers can be; reading settings imports no more."""

from dataclasses import dataclass

__all__ = ["MOST", "Limits", "check_count"]

MOST = 500
"""So many slots at most: the first in the line has a descriptor for each."""


def check_count(name: str, count: object) -> None:
    """Raise ValueError for a number of slots that cannot be; `name` is that of the option."""
    if type(count) is not int or not 1 <= count <= MOST:
        raise ValueError(
            f"{name} must be a whole number from 1 to {MOST}, not {count!r};"
            " without it there is no limit"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How many steps are made at once: by one builder, and by all with its store. None: any."""

    jobs: int | None = None
    max_steps: int | None = None
