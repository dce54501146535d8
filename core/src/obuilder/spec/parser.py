"""Text to a stage: the grammar of specs, and that each `copy` names a stage in scope."""

import codecs
import math
from collections.abc import Callable, Iterable
from contextlib import suppress

from obuilder.errors import SpecError
from obuilder.spec._expect import (
    MOST_ERRORS,
    EnoughError,
    Expect,
    ToldError,
    shown,
)
from obuilder.spec._ops import Ops, Scope
from obuilder.spec.ast import Op, Stage
from obuilder.spec.reader import parse_sexps
from obuilder.spec.sexp import Node
from obuilder.spec.suggest import nearest
from obuilder.spec.writer import MAX_STAGE_DEPTH

__all__ = ["Review", "parse", "parse_all"]

Review = Callable[[Op], Iterable[str]]
"""What is wrong with an op that the grammar allows."""

_STAGE = "a stage: ((from BASE) OP...)"
_ITEM = "(build NAME STAGE) or (from BASE)"
_OP = 'an op, such as (run (shell "make all"))'
_BEFORE_OPS = ("build", "from")


def parse(text: bytes, *, file: str = "<spec>") -> Stage:
    """The one stage in `text`; SpecError says what is wrong and where in `file`.

    Codes: `spec.syntax`, `spec.too-deep` (lists over 1000 deep, stages over 100),
    `spec.unknown-op`, `spec.unknown-field`, `spec.missing-field`,
    `spec.duplicate-field`, `spec.unknown-stage`, `spec.invalid` for the rest.
    """
    return _one_stage(text, Expect(file))


def parse_all(text: bytes, *, file: str = "<spec>", review: Review) -> tuple[SpecError, ...]:
    """Every error in `text`, in its order, and what `review` says of each op.

    Each field is read on its own, and what is misspelt as what it is meant to
    be; of text that is no S-expression the first error is told. After a hundred
    it stops and says so.
    """
    found: list[SpecError] = []
    expect = Expect(file, found=found)
    with suppress(ToldError):
        try:
            _one_stage(text, expect, review=review)
        except SpecError as error:
            found.append(error)
        except EnoughError:
            more = f"found more than {MOST_ERRORS} errors, expected fewer"
            found.append(SpecError(more, where=file, code="spec.too-many-errors"))
    return tuple(sorted(found, key=_position))


def _position(error: SpecError) -> tuple[float, ...]:
    place = (error.where or "").rsplit(":", 2)[1:]
    return tuple(map(float, place)) or (math.inf,)


def _one_stage(text: bytes, expect: Expect, *, review: Review | None = None) -> Stage:
    if text.startswith(codecs.BOM_UTF8):
        raise expect.error(
            Node((), 1, 1),
            "found a byte order mark, expected a parenthesis",
            hint="save it as UTF-8 without one",
        )
    nodes = parse_sexps(text, file=expect.file)
    if not nodes:
        raise expect.error(Node((), 1, 1), f"found nothing, expected {_STAGE}")
    if len(nodes) > 1:
        expect.report(
            expect.unlike(
                nodes[1],
                "the end of the file after the stage",
                hint="the parentheses before it may close too early",
            )
        )
    return _Parser(expect, review).stage(nodes[0])


class _Parser:
    def __init__(self, expect: Expect, review: Review | None) -> None:
        self._expect = expect
        self._review = review
        self._scope = Scope()
        self._ops = Ops(expect, self._scope).by_tag
        self._depth = 0

    def stage(self, node: Node) -> Stage:
        if self._depth > MAX_STAGE_DEPTH:
            raise self._expect.error(
                node, f"found stages more than {MAX_STAGE_DEPTH} deep", code="spec.too-deep"
            )
        outer_scope = len(self._scope.names)
        self._depth += 1
        try:
            return self._items(node, self._expect.items(node, _STAGE))
        finally:
            self._scope.shrink(outer_scope)
            self._depth -= 1

    def _items(self, stage: Node, items: tuple[Node, ...]) -> Stage:
        builds: list[tuple[str, Stage]] = []
        for index, item in enumerate(items):
            kind = self._kind(item)
            if kind == "from":
                base = self._expect.attempt(self._from, item)
                return self._rest(base, builds, items[index + 1 :])
            if kind == "build":
                build = self._expect.attempt(self._build, item)
                if build is not None:
                    builds.append(build)
            elif kind == "op":
                # Told at the first op: the others would be told for the same reason.
                return self._rest(None, builds, items[index:])
        raise self._expect.error(
            stage,
            "found a stage without (from BASE), expected one",
            hint="it comes after the builds and before the ops",
            code="spec.missing-field",
        )

    def _rest(
        self, base: str | None, builds: list[tuple[str, Stage]], ops: tuple[Node, ...]
    ) -> Stage:
        # What could not be read has been told of, and then nobody takes the stage.
        made = self._expect.each(self._op, ops)
        return Stage(from_=base or "", ops=made, builds=tuple(builds))

    def _kind(self, item: Node) -> str | None:
        """What an item before the base is or is meant to be: `from`, `build`, `op` or nothing."""
        tag = self._expect.attempt(lambda node: self._expect.tagged(node, _ITEM)[0], item)
        if tag is None or tag in _BEFORE_OPS:
            return tag
        if tag in self._ops:
            rule = "ops come after (from BASE)"
            self._expect.report(self._expect.unlike(item, _ITEM, hint=rule))
            return "op"
        self._expect.report(self._expect.unknown(item, "item", _BEFORE_OPS, code="spec.unknown-op"))
        near = nearest(tag, (*_BEFORE_OPS, *self._ops))
        return near if near in _BEFORE_OPS else "op" if near else None

    def _from(self, node: Node) -> str:
        _, args = self._expect.tagged(node, _ITEM)
        return self._expect.only(node, args, "(from BASE)")

    def _build(self, node: Node) -> tuple[str, Stage]:
        _, args = self._expect.tagged(node, _ITEM)
        if len(args) != 2:  # noqa: PLR2004 - a name and a stage
            self._expect.report(self._expect.unlike(node, "(build NAME STAGE)"))
        if not args:
            raise ToldError
        name = self._expect.atom(args[0], "the name of a stage")
        try:
            if len(args) == 1:
                raise ToldError
            return name, self.stage(args[1])
        finally:
            # Also if it is wrong: a copy from it is not.
            self._scope.add(name)

    def _op(self, node: Node) -> Op:
        tag, args = self._expect.tagged(node, _OP)
        if tag in self._ops:
            op = self._ops[tag](node, args)
            if self._review is not None:
                for problem in self._review(op):
                    self._expect.report(self._expect.error(node, problem, code="spec.impossible"))
            return op
        if tag in _BEFORE_OPS:
            rule = "there is one (from BASE), and every build comes before it"
            self._expect.report(
                self._expect.error(
                    node, f"found {shown(node)}, expected an op", hint=rule, code="spec.unknown-op"
                )
            )
            if tag == "build":
                self._expect.attempt(self._build, node)
            raise ToldError
        raise self._expect.unknown(node, "op", tuple(self._ops), code="spec.unknown-op")
