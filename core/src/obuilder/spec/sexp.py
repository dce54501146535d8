"""S-expressions as values: bare ones, and ones that know where they were written."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Union

from obuilder.errors import SpecError

__all__ = ["Node", "Sexp", "atom_bytes", "atom_text"]

# An atom is text of any bytes: those that are not UTF-8 are held as surrogates (PEP 383).
Sexp = Union[str, tuple["Sexp", ...]]  # noqa: UP007 - `|` cannot take the name that it defines


@dataclass(frozen=True, slots=True)
class Node:
    """An atom (text) or a list (nodes) and where it starts: `line`, `column` from 1.

    Columns count characters, as editors do; a byte that is not UTF-8 counts as one.
    """

    value: "str | tuple[Node, ...]"
    line: int
    column: int

    def sexp(self) -> Sexp:
        """The same without positions."""
        if isinstance(self.value, str):
            return self.value
        done: list[Sexp] = []
        # Not recursive: the reader's depth is more than Python's stack may have left.
        stack: list[tuple[Iterator[Node], list[Sexp]]] = [(iter((self,)), done)]
        while stack:
            nodes, into = stack[-1]
            node = next(nodes, None)
            if node is None:
                stack.pop()
                if stack:
                    stack[-1][1].append(tuple(into))
            elif isinstance(node.value, str):
                into.append(node.value)
            else:
                stack.append((iter(node.value), []))
        return done[0]


def atom_bytes(text: str) -> bytes:
    """The bytes that an atom stands for; SpecError for a lone surrogate, which is none."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SpecError(
            f"text that stands for no bytes: {text[:60]!a}",
            hint="decode bytes with errors='surrogateescape'",
            code="spec.text",
        ) from error


def atom_text(data: Iterable[int]) -> str:
    """The atom that stands for these bytes, always in the same form."""
    return bytes(data).decode("utf-8", "surrogateescape")
