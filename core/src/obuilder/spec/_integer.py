"""Integers as OCaml's `int_of_string` reads them, on a 64-bit machine."""

import re

__all__ = ["INTEGER_BITS", "parse_integer"]

_NUMBER = re.compile(r"([-+]?)(0[xXoObBuU])?([0-9a-fA-F][0-9a-fA-F_]*)")
_BASES = {"0x": 16, "0o": 8, "0b": 2, "0u": 10}
# OCaml's integers have 63 bits. Python refuses to convert very long decimals, and more digits
# than bits are too many in any base.
INTEGER_BITS = 63


def parse_integer(text: str) -> int | None:
    """The integer, or None if `text` is none or too large.

    Decimals are -2**62 to 2**62-1; with a base they are 63 bits that wrap, so
    that `0x7fffffffffffffff` is -1.
    """
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    sign, prefix, written = match.groups()
    base = _BASES[prefix.lower()] if prefix else 10
    digits = written.replace("_", "").lstrip("0") or "0"
    if len(digits) > INTEGER_BITS:
        return None
    try:
        value = int(digits, base)
    except ValueError:  # a digit that the base does not have
        return None
    return _in_range(-value if sign == "-" else value, wraps=prefix is not None)


def _in_range(value: int, *, wraps: bool) -> int | None:
    half = 1 << (INTEGER_BITS - 1)
    if not wraps:
        return value if -half <= value < half else None
    if abs(value) >= 2 * half:
        return None
    return (value + half) % (2 * half) - half
