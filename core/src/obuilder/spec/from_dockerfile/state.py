"""A stage while it is converted: its ops so far, and what its instructions have set."""

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Self

from obuilder.spec.ast import (
    Comment,
    Copy,
    Env,
    Op,
    Run,
    Shell,
    UnixUser,
    User,
    WindowsUser,
    Workdir,
)
from obuilder.spec.from_dockerfile.expand import Budget
from obuilder.spec.from_dockerfile.refusals import no_equal, wrong

__all__ = ["PLATFORM_ARGS", "ROOT", "Kind", "StageState", "cleaned", "normal"]

Kind = Callable[[str], Literal["file", "directory", "other"] | None]
"""What a source of a COPY is in the source directory; None if that is not known."""

ROOT = UnixUser(uid=0, gid=0)
_DOCKER_SHELL = ("/bin/sh", "-c")
_WINDOWS_SHELL = ("cmd", "/S", "/C")
_LONGEST_PATH = 4096  # as the kernel's own limit, PATH_MAX
_USUAL = re.compile(
    r"/|/(usr/|usr/local/)?(bin|etc|include|lib|lib64|sbin|share|src)"
    r"|/(boot|dev|home|media|mnt|opt|proc|root|run|srv|sys|tmp|usr|usr/local|var)"
    r"|/var/(cache|lib|log|opt|spool|tmp)"
)
PLATFORM_ARGS = frozenset(
    f"{of}{part}"
    for of in ("BUILD", "TARGET")
    for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")
) | {"TARGETSTAGE"}


@dataclass(slots=True, kw_only=True)
class StageState:
    """`user` and `shell` are what Docker has now; the `written_` ones what the ops have set.

    They differ after an exec form or a COPY with an owner of its own, and are
    brought together when an op needs it.
    """

    base: str
    windows: bool
    ops: list[Op] = field(default_factory=list)
    # Of ENV and ARG alike; None is an ARG without a value.
    variables: dict[str, str | None] = field(default_factory=dict)
    workdir: str = "/"
    user: UnixUser | WindowsUser = ROOT
    written_user: UnixUser | WindowsUser = ROOT
    shell: tuple[str, ...] | None = None
    written_shell: tuple[str, ...] | None = None
    directories: set[str] = field(default_factory=set)
    # The numbers of the stages that were copied from, and the length of the text so far.
    sources: set[int] = field(default_factory=set)
    size: int = 0

    def child(self, budget: Budget) -> Self:
        """What a stage that continues this one begins with."""
        things = len(self.ops) + len(self.variables)
        things += len(self.sources) + len(self.directories)
        budget.take(self.size + 64 * things)
        return type(self)(
            base=self.base,
            windows=self.windows,
            ops=list(self.ops),
            variables=dict(self.variables),
            workdir=self.workdir,
            user=self.user,
            written_user=self.written_user,
            shell=self.shell,
            written_shell=self.written_shell,
            directories=set(self.directories),
            sources=set(self.sources),
            size=self.size,
        )

    def lookup(self, name: str) -> str | None:
        """A variable's value: the last ENV or ARG. SpecError if only the base image knows it."""
        if name in self.variables:
            return self.variables[name]
        if not name[:1].isalpha() and name[:1] != "_":
            return None
        raise no_equal(
            f"${name} is set by no ENV or ARG here; its value would be the base image's, "
            "which is not known",
            "write the value out, or give it with ENV or ARG before",
        )

    def remark(self, text: str) -> None:
        self.ops.append(Comment(text))

    def set_env(self, name: str, value: str) -> None:
        """An ENV, or an ARG with a value: a variable of the commands after it."""
        self.variables[name] = value
        self.ops.append(Env(name, value))

    def declare_arg(self, name: str) -> bool:
        """An ARG without a value keeps what is set. Whether nothing is."""
        return self.variables.setdefault(name, None) is None

    def set_workdir(self, path: str) -> None:
        """Docker takes `..` away by the text, a kernel does not if it follows a link."""
        joined = self.joined(path)
        if ".." in path.split("/"):
            path = joined = normal(joined)
        if len(joined) > _LONGEST_PATH:
            raise wrong(f"a WORKDIR of more than {_LONGEST_PATH} characters")
        self.workdir = joined
        self.directories.add(normal(joined))
        self.ops.append(Workdir(path))

    def is_directory(self, path: str) -> bool:
        """Whether a path is surely one: a WORKDIR, or one that every image has."""
        place = normal(self.joined(path))
        return place in self.directories or _USUAL.fullmatch(place) is not None

    def joined(self, path: str) -> str:
        """A path seen from the WORKDIR."""
        return path if path.startswith("/") else f"{self.workdir.rstrip('/')}/{path}"

    def set_user(self, user: UnixUser | WindowsUser) -> None:
        self.user = self.written_user = user
        self.ops.append(User(user))

    def set_shell(self, argv: tuple[str, ...]) -> None:
        self.shell = self.written_shell = argv
        self.ops.append(Shell(argv))

    def run(self, run: Run) -> None:
        """A command for the shell."""
        self._need_user(self.user)
        if self.shell is None:
            self.shell = _WINDOWS_SHELL if self.windows else _DOCKER_SHELL
            if self.written_shell is None:
                # Nothing has run yet, so it may as well stand where a reader looks for it.
                self.ops.insert(0, Shell(self.shell))
                self.written_shell = self.shell
        self._need_shell(self.shell)
        self.ops.append(run)

    def run_program(self, shell: tuple[str, ...], run: Run) -> None:
        """A command for a shell of its own."""
        self._need_user(self.user)
        self._need_shell(shell)
        self.ops.append(run)

    def copy(self, copy: Copy, owner: UnixUser | WindowsUser) -> None:
        self._need_user(owner)
        self.ops.append(copy)

    def _need_user(self, user: UnixUser | WindowsUser) -> None:
        if user != self.written_user:
            self.written_user = user
            self.ops.append(User(user))

    def _need_shell(self, argv: tuple[str, ...]) -> None:
        if argv != self.written_shell:
            self.written_shell = argv
            self.ops.append(Shell(argv))


def cleaned(path: str) -> str:
    """A path as Go's path.Clean has it."""
    return normal(path) if path.startswith("/") else posixpath.normpath(path)


def normal(path: str) -> str:
    """An absolute path without `..`, `.` and empty parts."""
    return posixpath.normpath("/" + path.lstrip("/"))
