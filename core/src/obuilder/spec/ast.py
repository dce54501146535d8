"""The language as values: what a parsed spec is, and what a program builds one from."""

from dataclasses import dataclass

__all__ = [
    "LARGEST_USER_ID",
    "Cache",
    "Comment",
    "Copy",
    "Env",
    "Op",
    "Run",
    "SecretMount",
    "Shell",
    "Stage",
    "UnixUser",
    "User",
    "WindowsUser",
    "Workdir",
]

LARGEST_USER_ID = 2**32 - 2
"""uid_t is 32 bits and (uid_t)-1 means "no change" to chown(2) and setuid(2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cache:
    """A named persistent directory mounted at `target`; the options are BuildKit's."""

    id: str
    target: str
    buildkit_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretMount:
    """A secret shown as a file at `target`."""

    id: str
    target: str
    buildkit_options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Comment:
    """Text for readers; no effect."""

    text: str


@dataclass(frozen=True, slots=True)
class Workdir:
    """The directory of later ops; relative to the current one unless absolute."""

    path: str


@dataclass(frozen=True, slots=True)
class Shell:
    """What later `run` ops put before their command."""

    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Env:
    """An environment variable of later ops."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnixUser:
    """A numeric user and group, any integers; the step checks their range."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowsUser:
    """A user by name, for Windows images."""

    name: str


@dataclass(frozen=True, slots=True)
class User:
    """Who later ops run as, and whose the copied files are."""

    user: UnixUser | WindowsUser


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A command in the sandbox; `shell` is its text."""

    shell: str
    cache: tuple[Cache, ...] = ()
    network: tuple[str, ...] = ()
    secrets: tuple[SecretMount, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Files from the source directory, or from the finished stage `from_`."""

    src: tuple[str, ...]
    dst: str
    exclude: tuple[str, ...] = ()
    from_: str | None = None


Op = Comment | Workdir | Shell | Env | User | Run | Copy


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A base, the ops on it, and the stages that are built before it, in order."""

    from_: str
    ops: tuple[Op, ...] = ()
    builds: tuple[tuple[str, "Stage"], ...] = ()

    def __str__(self) -> str:
        """The canonical text: as `pretty` and `format_spec` lay it out, without a last newline."""
        from obuilder.spec.format import canonical  # noqa: PLC0415 - it is written in these values

        return canonical(self)

    def __eq__(self, other: object) -> bool:
        """Whether both say the same; a `Spec` may equal a stage that was parsed."""
        if not isinstance(other, Stage):
            return NotImplemented
        return (self.from_, self.ops, self.builds) == (other.from_, other.ops, other.builds)

    def __hash__(self) -> int:
        """Alike for what is equal."""
        return hash((self.from_, self.ops, self.builds))
