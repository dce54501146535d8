"""A COPY to one or more `copy` ops.

A spec's `dst` with a slash takes each source by its name, a directory too,
where Docker spreads the directory's contents; without one, both put a
directory's contents, or a file, at `dst`. So it matters what a source is.
"""

from collections.abc import Sequence

from obuilder.spec.ast import Copy
from obuilder.spec.from_dockerfile.refusals import no_equal, wrong
from obuilder.spec.from_dockerfile.state import Kind, StageState, normal

__all__ = ["copy_ops"]

_WILDCARDS = frozenset("*?[\\")
_REMOTE = ("http://", "https://", "git://", "ssh://", "git@")


def copy_ops(
    words: Sequence[str], *, from_: str | None, state: StageState, kind: Kind
) -> tuple[list[Copy], list[str]]:
    """The ops for sources and a destination, and which sources were guessed at. SpecError.

    What is not known is taken for a file if `dst` ends with a slash, for a directory if not.
    """
    if len(words) < 2:  # noqa: PLR2004 - a source and a destination
        raise wrong("COPY without a source and a destination")
    *sources, dst = words
    if not all(words):
        raise wrong("COPY with a path that is blank")
    for source in sources:
        _check(source)
    into = dst.rpartition("/")[2] in {"", ".", ".."}
    if ".." in dst.split("/"):
        dst = normal(state.joined(dst))
    # Docker puts a file into a directory that is there, slash or not.
    known = not into and state.is_directory(dst)
    if len(sources) > 1 and not into:
        raise wrong(f"COPY of several sources to {dst[:60]!r}, which has no / at its end")
    grouped: list[tuple[str, list[str]]] = []
    guessed: list[str] = []
    for source in sources:
        found = _found(source, None if from_ else kind)
        if found is None and (into or known):
            guessed.append(source)
        target = _target(found, dst) if into or (known and found == "file") else dst
        if grouped and grouped[-1][0] == target and target.endswith("/"):
            grouped[-1][1].append(source)
        else:
            grouped.append((target, [source]))
    return [Copy(src=tuple(src), dst=target, from_=from_) for target, src in grouped], guessed


def _found(source: str, kind: Kind | None) -> str | None:
    if all(part in {"", "."} for part in source.split("/")):
        return "root"
    if source.endswith(("/", "/.")):
        return "directory"
    found = kind(source) if kind else None
    if found == "other":
        raise no_equal(f"{source[:60]!r} is no file or directory: Docker follows links")
    return found


def _target(found: str | None, dst: str) -> str:
    """What a spec calls the inside of a directory, where a source of this kind goes."""
    if found == "root":
        return dst  # spread either way
    if found == "directory":
        return dst.rstrip("/") or "/."
    return dst if dst.endswith("/") else f"{dst}/"


def _check(source: str) -> None:
    if source.startswith(_REMOTE):
        raise wrong(f"COPY of {source[:60]!r}, which is no path", "fetch it with a RUN")
    if _WILDCARDS.intersection(source):
        raise no_equal(f"the wildcard {source[:60]!r}", "name each file, or copy their directory")
    if ".." in source.split("/"):
        raise no_equal(f"{source[:60]!r} leaves the source directory")
