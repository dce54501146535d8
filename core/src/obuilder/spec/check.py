"""All that is wrong with a spec, at once: its form, and what no build of it could do."""

from collections.abc import Iterator

from obuilder.errors import SpecError
from obuilder.spec.ast import LARGEST_USER_ID, Copy, Env, Op, Run, Shell, UnixUser, User, Workdir
from obuilder.spec.parser import parse_all
from obuilder.spec.printer import quoted, to_mach

__all__ = ["check"]


def check(text: bytes, *, file: str = "<spec>") -> tuple[SpecError, ...]:
    """Every error in `text`, in its order; none if it parses and could be built.

    Besides the errors of `parse`: ops that the language allows and that fail
    when a build comes to them, whatever its sources (`spec.impossible`).
    """
    return parse_all(text, file=file, review=_problems)


def _problems(op: Op) -> Iterator[str]:
    match op:
        case Run():
            yield from _run(op)
        case Copy():
            yield from _copy(op)
        case User(UnixUser(uid=uid, gid=gid)):
            for word, number in (("uid", uid), ("gid", gid)):
                if not 0 <= number <= LARGEST_USER_ID:
                    yield f"found {word} {number}, expected 0 to {LARGEST_USER_ID}"
        case Shell(argv):
            yield from _zero_bytes("shell", *argv)
        case Env(name, value):
            yield from _zero_bytes("env", name, value)
        case Workdir(path):
            yield from _zero_bytes("workdir", path)


def _run(run: Run) -> Iterator[str]:
    if run.network not in ((), ("host",)):
        yield f"found {to_mach(('network', *run.network))}, expected (network host) or none"
    targets = [cache.target for cache in run.cache] + [secret.target for secret in run.secrets]
    yield from _zero_bytes("run", run.shell, *targets)


def _copy(copy: Copy) -> Iterator[str]:
    if not copy.src:
        yield "found no path in (src), expected at least one"
    if len(copy.src) > 1 and not copy.dst.endswith("/"):
        yield f'found several sources for {quoted(copy.dst)}, expected it to end in "/"'
    for source in copy.src:
        if ".." in source.split("/"):
            yield f'found ".." in the source {quoted(source)}, expected a path below its root'
    yield from _zero_bytes("copy", *copy.src, copy.dst)


def _zero_bytes(tag: str, *texts: str) -> Iterator[str]:
    if any("\0" in text for text in texts):
        yield f"found a zero byte in {tag}, which no program or file can be given"
