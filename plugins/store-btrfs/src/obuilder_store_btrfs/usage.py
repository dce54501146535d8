"""How much of a btrfs is free: data and metadata fill up separately, the fuller one counts."""

import re

__all__ = ["free_percent"]

_GROUP = re.compile(r"^([A-Za-z+]+),[^:]*: Size:(\d+), Used:(\d+)", re.MULTILINE)


def free_percent(usage: str) -> float:
    """The lesser of free data and free metadata, 0 to 100, from `btrfs filesystem usage -b`.

    Space that is not yet given to either counts as free for both. The global
    reserve is metadata that no one else gets. ValueError if the text has no such form.
    """
    unallocated = _number(r"Device unallocated:\s*(\d+)", usage)
    reserve = _number(r"Global reserve:\s*(\d+)", usage)
    return min(
        _free(usage, "Data", unallocated=unallocated, reserve=0.0),
        _free(usage, "Metadata", unallocated=unallocated, reserve=reserve),
    )


def _free(usage: str, kind: str, *, unallocated: float, reserve: float) -> float:
    size = unallocated / _number(rf"{kind} ratio:\s*([\d.]+)", usage)
    free = size - reserve
    for kinds, allocated, used in _GROUP.findall(usage):
        if kind in kinds.split("+"):
            size += int(allocated)
            free += int(allocated) - int(used)
    return 100.0 * min(max(free, 0.0), size) / size if size else 0.0


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"{pattern!r} is not in the output of `btrfs filesystem usage`")
    return float(found.group(1))
