"""Specs written in Python: a constructor for each word of the language.

::

    spec = Spec(
        from_="debian:bookworm",
        builds={"tools": stage("debian:bookworm", [run("make tools")])},
        ops=[
            run("apt-get install -y gcc", network=["host"], cache=[cache("apt", "/var/cache/apt")]),
            copy("tool", "/usr/bin/", from_="tools"),
        ],
    )
    print(spec)

What `parse` refuses is refused here, by SpecError: a value of a wrong type
(`spec.type`), and what `Spec` says.
"""

from collections.abc import Iterable, Mapping

from obuilder.spec._validate import (
    as_op,
    as_pairs,
    as_stage,
    as_texts,
    as_tuple,
    check_scope,
    text,
)
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

__all__ = [
    "Spec",
    "cache",
    "comment",
    "copy",
    "env",
    "run",
    "secret",
    "shell",
    "stage",
    "user",
    "windows_user",
    "workdir",
]

Options = Mapping[str, str] | Iterable[tuple[str, str]]
Builds = Mapping[str, Stage] | Iterable[tuple[str, Stage]]


class Spec(Stage):
    """A whole build script; `str()` of it is the canonical text, which `parse` reads back.

    It equals any `Stage` that says the same.
    """

    __slots__ = ()

    def __init__(self, *, from_: str, ops: Iterable[Op] = (), builds: Builds = ()) -> None:
        """A stage that stands alone.

        SpecError: `spec.type`, `spec.unknown-stage` for a copy from a stage that
        is not in scope (one of the ancestors' builds or its own, written before
        it), `spec.too-deep` for stages more than MAX_STAGE_DEPTH deep,
        `spec.invalid` for a number of more than 63 bits.
        """
        made = stage(from_, ops, builds=builds)
        check_scope(made)
        super().__init__(from_=made.from_, ops=made.ops, builds=made.builds)


def stage(from_: str, ops: Iterable[Op] = (), *, builds: Builds = ()) -> Stage:
    """A stage within a spec: `(build NAME STAGE)`; its copies may name stages of the outer one."""
    pairs = as_pairs(builds, "builds", as_stage)
    made = tuple(as_op(op, f"ops[{index}]") for index, op in enumerate(as_tuple(ops, "ops")))
    return Stage(from_=text(from_, "from_"), ops=made, builds=pairs)


def run(
    shell: str,
    *,
    cache: Iterable[Cache] = (),
    network: Iterable[str] = (),
    secrets: Iterable[SecretMount] = (),
) -> Run:
    """`(run (shell …))`: a command in the sandbox. `network` is `["host"]` or nothing."""
    op = Run(
        shell=shell,
        cache=as_tuple(cache, "cache"),
        network=as_texts(network, "network"),
        secrets=as_tuple(secrets, "secrets"),
    )
    as_op(op, "run")
    return op


def copy(
    src: str | Iterable[str],
    dst: str,
    *,
    exclude: Iterable[str] = (),
    from_: str | None = None,
) -> Copy:
    """`(copy (src …) (dst …))`: files from the source directory, or from the stage `from_`.

    With `dst` ending in `/` each source goes into that directory.
    """
    sources = (src,) if isinstance(src, str) else as_texts(src, "src")
    op = Copy(src=sources, dst=dst, exclude=as_texts(exclude, "exclude"), from_=from_)
    as_op(op, "copy")
    return op


def env(name: str, value: str) -> Env:
    """`(env NAME VALUE)`: an environment variable of later ops."""
    return Env(text(name, "name"), text(value, "value"))


def workdir(path: str) -> Workdir:
    """`(workdir DIR)`: the directory of later ops, relative to the current one."""
    return Workdir(text(path, "path"))


def shell(*argv: str) -> Shell:
    """`(shell ARG…)`: what later runs put before their command."""
    return Shell(as_texts(argv, "argv"))


def comment(words: str) -> Comment:
    """`(comment TEXT)`: for readers; no effect."""
    return Comment(text(words, "words"))


def user(uid: int, gid: int) -> User:
    """`(user (uid N) (gid N))`: who later runs are, and whose the copied files are."""
    op = User(UnixUser(uid=uid, gid=gid))
    as_op(op, "user")
    return op


def windows_user(name: str) -> User:
    """`(user (name NAME))`: for Windows images."""
    return User(WindowsUser(name=text(name, "name")))


def cache(id: str, target: str, *, buildkit_options: Options = ()) -> Cache:
    """A named persistent directory, mounted at `target` in a `run`."""
    options = as_pairs(buildkit_options, "buildkit_options", text)
    return Cache(id=text(id, "id"), target=text(target, "target"), buildkit_options=options)


def secret(id: str, target: str, *, buildkit_options: Options = ()) -> SecretMount:
    """A secret, shown as a read-only file at `target` in a `run`."""
    options = as_pairs(buildkit_options, "buildkit_options", text)
    return SecretMount(id=text(id, "id"), target=text(target, "target"), buildkit_options=options)
