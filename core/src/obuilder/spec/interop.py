"""Specs as sexpdata's values, for programs that make or rewrite S-expressions with that library.

Not for text: `sexpdata.loads` takes `1.10` for a number, `t` for true and `nil`
for a list, and their exact text is lost; `sexpdata.dumps` has other escapes than
sexplib. `parse` reads text, and `str()` of a stage writes it.
"""

import re

import sexpdata

from obuilder.errors import SpecError
from obuilder.spec.ast import Stage
from obuilder.spec.parser import parse
from obuilder.spec.printer import to_mach
from obuilder.spec.sexp import Sexp
from obuilder.spec.writer import stage_to_sexp

__all__ = ["from_sexpdata", "to_sexpdata"]

_BARE = re.compile(r"[A-Za-z_/][A-Za-z0-9_./:@%+=,-]*")


def from_sexpdata(value: object) -> Stage:
    """The stage that lists of `sexpdata.Symbol` and `str` stand for.

    SpecError: `spec.type` for any other value, else as `parse`.
    """
    return parse(to_mach(_sexp(value)).encode(), file="<sexpdata>")


def to_sexpdata(stage: Stage) -> object:
    """Lists of `sexpdata.Symbol`, for words, and `str`."""
    return _value(stage_to_sexp(stage))


def _sexp(value: object) -> Sexp:
    no_list = isinstance(value, sexpdata.Quoted | sexpdata.Brackets)  # but a tuple
    if isinstance(value, list | tuple) and not no_list:
        try:
            return tuple(_sexp(item) for item in value)
        except RecursionError:
            raise SpecError("lists too deep", code="spec.too-deep") from None
    if isinstance(value, sexpdata.Symbol):
        return str(value.value())
    if isinstance(value, str):
        return value
    raise SpecError(
        f"found {value!r:.60}, expected a list, a symbol or a string",
        hint="sexpdata reads some atoms as other types; obuilder.spec.parse keeps their text",
        code="spec.type",
    )


def _value(sexp: Sexp) -> object:
    if isinstance(sexp, str):
        return sexpdata.Symbol(sexp) if _BARE.fullmatch(sexp) else sexp
    return [_value(item) for item in sexp]
