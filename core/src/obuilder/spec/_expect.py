"""Taking S-expressions apart with errors that say where, what was found, and what was expected."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from obuilder.errors import SpecError
from obuilder.spec.printer import quoted, to_mach
from obuilder.spec.sexp import Node
from obuilder.spec.suggest import nearest

__all__ = ["Expect", "Fields", "shown"]

T = TypeVar("T")

_LONGEST_SHOWN = 60
_MOST_CHOICES = 10


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
            self._found.append(error)
            return None

    def report(self, error: SpecError) -> None:
        """Add an error that does not keep the rest from being read, or raise it."""
        if self._found is None:
            raise error
        self._found.append(error)

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

        Every required one is there.
        """
        found: dict[str, tuple[Node, ...]] = {}
        names = known.names
        expected = f"a field of {known.owner}: {', '.join(names)}"
        for node in nodes:
            if isinstance(node.value, str):
                self.report(self.unlike(node, expected, hint=known.example))
                continue
            name, args = self.tagged(node, expected)
            if name not in names:
                self.report(
                    self.unknown(node, f"{known.owner} field", names, code="spec.unknown-field")
                )
            elif name in found:
                self.report(
                    self.error(
                        node, f'found "{name}" again, expected it once', code="spec.duplicate-field"
                    )
                )
            elif name in known.single and len(args) != 1:
                # The rest means little without it.
                raise self.error(
                    node,
                    f'found {len(args)} values for "{name}", expected exactly one',
                    hint=known.example,
                )
            else:
                found[name] = args
        for name in known.required:
            if name not in found:
                raise self.error(
                    owner,
                    f'found a {known.owner} without "{name}", expected ({name} ...) in it',
                    hint=known.example,
                    code="spec.missing-field",
                )
        return found
