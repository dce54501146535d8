"""Taking S-expressions apart with errors that say where, what was found, and what was expected."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from obuilder.errors import SpecError
from obuilder.spec.printer import quoted, to_mach
from obuilder.spec.sexp import Node
from obuilder.spec.suggest import nearest

__all__ = ["MOST_ERRORS", "QUOTES", "EnoughError", "Expect", "Fields", "ToldError", "shown"]

T = TypeVar("T")

_LONGEST_SHOWN = 60
_MOST_CHOICES = 10
QUOTES = "text with blanks goes in quotes"
MOST_ERRORS = 100
"""Told of one file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """The fields that a record may have, in their canonical order.

    `inline` ones hold any number of items, the others exactly one.
    """

    owner: str
    inline: tuple[str, ...] = ()
    single: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    example: str

    @property
    def names(self) -> tuple[str, ...]:
        return self.inline + self.single


def shown(node: Node) -> str:
    """A short text for what was found."""
    value = node.value
    if isinstance(value, str):
        text = value if len(value) <= _LONGEST_SHOWN else f"{value[:_LONGEST_SHOWN]}..."
        return quoted(text)
    if not value:
        return "()"
    first = value[0].value
    head = to_mach(first[:_LONGEST_SHOWN]) if isinstance(first, str) else "(...)"
    return f"({head} ...)" if len(value) > 1 else f"({head})"


class ToldError(Exception):
    """Something that cannot be made, of which the reason has been added already."""


class EnoughError(Exception):
    """More errors than anybody reads."""


class Expect:
    """Reads nodes of one file; every complaint names it.

    With `found`, complaints are added to it and reading goes on with what comes
    after; without, the first one is raised.
    """

    def __init__(self, file: str, *, found: list[SpecError] | None = None) -> None:
        self.file = file
        self._found = found

    def attempt(self, read: Callable[[Node], T], node: Node) -> T | None:
        """What `read` makes of `node`; None if that failed and the error was added."""
        if self._found is None:
            return read(node)
        try:
            return read(node)
        except SpecError as error:
            self.report(error)
        except ToldError:
            pass
        return None

    def each(self, read: Callable[[Node], T], nodes: Iterable[Node]) -> tuple[T, ...]:
        """What `read` makes of each of them; without those whose error was added."""
        made = (self.attempt(read, node) for node in nodes)
        return tuple(one for one in made if one is not None)

    def report(self, error: SpecError) -> None:
        """Add an error that does not keep the rest from being read, or raise it."""
        if self._found is None:
            raise error
        if len(self._found) >= MOST_ERRORS:
            raise EnoughError
        # Its traceback would keep everything alive that is on the stack.
        self._found.append(error.with_traceback(None))

    def error(
        self, node: Node, what: str, *, hint: str | None = None, code: str = "spec.invalid"
    ) -> SpecError:
        """An error at `node`."""
        return SpecError(what, where=f"{self.file}:{node.line}:{node.column}", hint=hint, code=code)

    def unlike(self, node: Node, expected: str, *, hint: str | None = None) -> SpecError:
        """`node` is not what is expected here."""
        return self.error(node, f"found {shown(node)}, expected {expected}", hint=hint)

    def atom(self, node: Node, expected: str) -> str:
        """The text of an atom."""
        if isinstance(node.value, str):
            return node.value
        raise self.unlike(node, expected, hint="text with blanks or parentheses goes in quotes")

    def only(self, node: Node, args: tuple[Node, ...], form: str) -> str:
        """The text of the one argument of `node`."""
        if len(args) != 1:
            raise self.error(
                node,
                f"found {len(args)} values in {shown(node)}, expected one: {form}",
                hint=QUOTES if args else None,
            )
        return self.atom(args[0], form)

    def atoms(self, nodes: tuple[Node, ...], expected: str) -> tuple[str, ...]:
        """The texts of atoms."""
        return self.each(lambda node: self.atom(node, expected), nodes)

    def items(self, node: Node, expected: str) -> tuple[Node, ...]:
        """What a list holds."""
        if isinstance(node.value, tuple):
            return node.value
        raise self.unlike(node, expected)

    def tagged(self, node: Node, expected: str) -> tuple[str, tuple[Node, ...]]:
        """The first atom of a list, and the rest."""
        items = self.items(node, expected)
        if items and isinstance(items[0].value, str):
            return items[0].value, items[1:]
        raise self.unlike(node, expected)

    def unknown(self, node: Node, what: str, choices: Collection[str], *, code: str) -> SpecError:
        """`node` begins with a name that is none of `choices`, or is such a name."""
        named = node if isinstance(node.value, str) else node.value[0]
        name = self.atom(named, what)
        near = nearest(name, choices)
        listed = ", ".join(to_mach(choice) for choice in islice(choices, _MOST_CHOICES))
        more = ", ..." if len(choices) > _MOST_CHOICES else ""
        expected = (
            f"expected one of: {listed}{more}"
            if choices
            else "expected one that is in scope, and none is"
        )
        hint = f"did you mean {shown(Node(near, 0, 0))}?" if near else None
        return self.error(named, f"unknown {what} {shown(named)}, {expected}", hint=hint, code=code)

    def fields(
        self, owner: Node, nodes: tuple[Node, ...], known: Fields
    ) -> dict[str, tuple[Node, ...]]:
        """The arguments of each field that is there, in any order.

        A required one may be missing, which has been told then: see `value`.
        """
        found: dict[str, tuple[Node, ...]] = {}
        told: set[str] = set()
        for node in nodes:
            name = self._field(node, known, nodes)
            if name is None:
                continue
            args = node.value[1:]
            if name in found:
                self.report(
                    self.error(
                        node, f'found "{name}" again, expected it once', code="spec.duplicate-field"
                    )
                )
            elif name in known.single and len(args) != 1:
                told.add(name)
                self.report(
                    self.error(
                        node,
                        f'found {len(args)} values for "{name}", expected exactly one',
                        hint=known.example,
                    )
                )
            else:
                found[name] = tuple(arg for arg in args if isinstance(arg, Node))
        for name in known.required:
            if name not in found and name not in told:
                self.report(
                    self.error(
                        owner,
                        f'found a {known.owner} without "{name}", expected ({name} ...) in it',
                        hint=known.example,
                        code="spec.missing-field",
                    )
                )
        return found

    def value(self, fields: dict[str, tuple[Node, ...]], name: str) -> Node:
        """The one argument of a required field; ToldError if there is none."""
        if name not in fields:
            raise ToldError
        return fields[name][0]

    def _field(self, node: Node, known: Fields, others: tuple[Node, ...]) -> str | None:
        """The field that this is, or is meant to be and nowhere else is; None if it is none."""
        names = known.names
        expected = f"a field of {known.owner}: {', '.join(names)}"
        if isinstance(node.value, str):
            self.report(self.unlike(node, expected, hint=known.example))
            return None
        name = self.attempt(lambda inner: self.tagged(inner, expected)[0], node)
        if name is None or name in names:
            return name
        self.report(self.unknown(node, f"{known.owner} field", names, code="spec.unknown-field"))
        near = nearest(name, names)
        first = (other.value[0] for other in others if other.value)
        written = {word.value for word in first if isinstance(word, Node)}
        return None if near in written else near
