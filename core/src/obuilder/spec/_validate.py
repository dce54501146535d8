"""What `parse` makes sure of, for values that a program made: types, numbers, stages in scope."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from obuilder.errors import SpecError
from obuilder.spec._integer import INTEGER_BITS
from obuilder.spec.ast import (
    Cache,
    Comment,
    Copy,
    Env,
    Op,
    Run,
    SecretMount,
    Shell,
    Stage,
    UnixUser,
    User,
    WindowsUser,
    Workdir,
)
from obuilder.spec.printer import quoted
from obuilder.spec.sexp import atom_bytes, atom_text
from obuilder.spec.suggest import nearest
from obuilder.spec.writer import MAX_STAGE_DEPTH

__all__ = ["as_op", "as_pairs", "as_stage", "as_texts", "as_tuple", "check_scope", "text"]

T = TypeVar("T")

_SHOWN_BITS = 200
_MOST_NAMES = 10


def text(value: object, where: str) -> str:
    """A text that stands for some bytes."""
    if not isinstance(value, str):
        raise _unlike(value, "text", where)
    if atom_text(atom_bytes(value)) != value:
        raise SpecError(
            f"found {value!a:.60}, which is UTF-8 and was decoded as something else",
            where=where,
            hint="decode bytes with decode('utf-8', 'surrogateescape')",
            code="spec.text",
        )
    return value


def as_tuple(values: Iterable[T], where: str) -> tuple[T, ...]:
    """The items of any iterable but a text, which would fall apart into letters."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise _unlike(values, "a list", where)
    return tuple(values)


def as_texts(values: Iterable[str], where: str) -> tuple[str, ...]:
    """The texts of a list."""
    items = as_tuple(values, where)
    return tuple(text(item, f"{where}[{index}]") for index, item in enumerate(items))


def as_pairs(
    values: Mapping[str, T] | Iterable[tuple[str, T]], where: str, check: Callable[[Any, str], T]
) -> tuple[tuple[str, T], ...]:
    """The items of a mapping, or of a list of pairs; a name may come twice in a list."""
    items = values.items() if isinstance(values, Mapping) else as_tuple(values, where)
    pairs = []
    for index, item in enumerate(items):
        if not isinstance(item, tuple) or len(item) != 2:  # noqa: PLR2004 - a pair
            raise _unlike(item, "a pair: (name, value)", f"{where}[{index}]")
        name = text(item[0], f"{where}[{index}]")
        pairs.append((name, check(item[1], f"{where}[{name!r}]")))
    return tuple(pairs)


def as_stage(value: object, where: str) -> Stage:
    """A stage within another, whose parts are of the right types."""
    stage = _is_stage(value, where)
    _walk(stage, where, 1)
    return stage


def as_op(value: object, where: str) -> Op:
    """An op whose parts are of the right types."""
    match value:
        case Run(shell=shell, cache=cache, network=network, secrets=secrets):
            text(shell, f"{where}: shell")
            _each(cache, f"{where}: cache", _mount(Cache))
            _each(network, f"{where}: network", text)
            _each(secrets, f"{where}: secrets", _mount(SecretMount))
        case Copy(src=src, dst=dst, exclude=exclude, from_=from_):
            _each(src, f"{where}: src", text)
            text(dst, f"{where}: dst")
            _each(exclude, f"{where}: exclude", text)
            if from_ is not None:
                text(from_, f"{where}: from_")
        case User(UnixUser(uid=uid, gid=gid)):
            _integer(uid, f"{where}: uid")
            _integer(gid, f"{where}: gid")
        case User(WindowsUser(name=words)) | Comment(words) | Workdir(words):
            text(words, where)
        case Shell(argv):
            _each(argv, where, text)
        case Env(name, words):
            text(name, where)
            text(words, where)
        case _:
            raise _unlike(value, "an op, such as run(…) or copy(…)", where)
    return value


def check_scope(stage: Stage) -> None:
    """SpecError (`spec.unknown-stage`) for a copy from a stage that is not in scope."""
    _scoped(stage, Counter())


def _scoped(stage: Stage, known: Counter[str]) -> None:
    for name, child in stage.builds:
        _scoped(child, known)
        known[name] += 1
    for op in stage.ops:
        if isinstance(op, Copy) and op.from_ is not None and not known[op.from_]:
            names = [name for name, uses in known.items() if uses]
            near = nearest(op.from_, names)
            in_scope = ", ".join(map(quoted, names[:_MOST_NAMES])) or "none"
            raise SpecError(
                f"unknown stage {quoted(op.from_)}; in scope: {in_scope}",
                where=f"copy to {quoted(op.dst)}",
                hint=f"did you mean {quoted(near)}?" if near else None,
                code="spec.unknown-stage",
            )
    # Its own are not visible outside.
    known.subtract(name for name, _ in stage.builds)


def _walk(stage: Stage, where: str, depth: int) -> None:
    if depth > MAX_STAGE_DEPTH:
        raise SpecError(f"stages more than {MAX_STAGE_DEPTH} deep", code="spec.too-deep")
    text(stage.from_, f"{where}: from_")
    _each(stage.ops, f"{where}: ops", as_op)
    _tuple(stage.builds, f"{where}: builds")
    for name, child in as_pairs(stage.builds, f"{where}: builds", _is_stage):
        _walk(child, f"{where}: builds[{name!r}]", depth + 1)


def _is_stage(value: object, where: str) -> Stage:
    if not isinstance(value, Stage):
        raise _unlike(value, "a stage: stage(from_, ops)", where)
    return value


def _mount(kind: type[Cache | SecretMount]) -> Callable[[object, str], object]:
    def check(value: object, where: str) -> object:
        if not isinstance(value, kind):
            raise _unlike(value, f"a {kind.__name__}", where)
        text(value.id, f"{where}: id")
        text(value.target, f"{where}: target")
        _tuple(value.buildkit_options, f"{where}: buildkit_options")
        return as_pairs(value.buildkit_options, f"{where}: buildkit_options", text)

    return check


def _each(values: object, where: str, check: Callable[[object, str], object]) -> None:
    for index, value in enumerate(_tuple(values, where)):
        check(value, f"{where}[{index}]")


def _tuple(values: object, where: str) -> tuple[object, ...]:
    # The model is frozen to the bottom: a list in it could change after it was checked.
    if not isinstance(values, tuple):
        raise _unlike(values, "a tuple", where)
    return values


def _integer(value: object, where: str) -> None:
    if type(value) is not int:  # a bool is no number here
        raise _unlike(value, "a whole number", where)
    if not -(1 << (INTEGER_BITS - 1)) <= value < 1 << (INTEGER_BITS - 1):
        found = value if value.bit_length() < _SHOWN_BITS else f"one of {value.bit_length()} bits"
        raise SpecError(f"found {found}, expected an integer of up to 63 bits", where=where)


def _unlike(value: object, expected: str, where: str) -> SpecError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:60]}…"  # noqa: PLR2004 - a line's worth
    return SpecError(f"found {shown}, expected {expected}", where=where, code="spec.type")
