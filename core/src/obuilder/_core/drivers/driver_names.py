"""How a driver is named: `driver`, or `distribution/driver` where two distributions claim it."""

import re

__all__ = ["PACKAGE_NAME", "distribution_of", "driver_of", "is_qualified", "normal_name"]

PACKAGE_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
"""What a distribution can be called."""

_QUALIFIED = re.compile(rf"{PACKAGE_NAME.pattern}/[^/:\0]+")


def is_qualified(name: str) -> bool:
    """Whether a name has the form `distribution/driver`; a path with a first `/` has not."""
    return _QUALIFIED.fullmatch(name) is not None


def driver_of(name: str) -> str:
    """The driver alone: the entry point's name, which is also that of its section."""
    return name.rpartition("/")[2]


def distribution_of(name: str) -> str | None:
    """The distribution, in its normal spelling, if one is named."""
    named = name.rpartition("/")[0]
    return normal_name(named) if named else None


def normal_name(name: str) -> str:
    """The one spelling of a distribution's name: `My_Plugin` is `my-plugin`."""
    return re.sub(r"[-_.]+", "-", name).lower()
