"""A stage to the text of a Dockerfile, byte for byte as OBuilder writes it."""

from collections.abc import Iterable, Sequence
from typing import Literal

from obuilder.errors import SpecError
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
from obuilder.spec.writer import MAX_STAGE_DEPTH

__all__ = ["Escape", "to_dockerfile"]

Escape = Literal["unix", "windows"]
"""What escapes a character: a backslash, or a backtick where paths have backslashes."""

_ROOT = UnixUser(uid=0, gid=0)
_ADMINISTRATOR = WindowsUser(name="ContainerAdministrator")
# What OCaml's String.trim takes away.
_BLANKS = " \f\n\r\t"


def to_dockerfile(stage: Stage, *, buildkit: bool = False, escape: Escape = "unix") -> str:
    """The Dockerfile of a spec. Networks and exclusions are left out, as OBuilder does;
    caches and secrets too, unless for BuildKit.

    SpecError: `dockerfile.windows-user` for a cache or a secret of a user without a number,
    `dockerfile.newline` where a newline would begin an instruction of its own,
    `dockerfile.stage-name` where a name would mean another stage than in the spec,
    `spec.too-deep` for stages more than MAX_STAGE_DEPTH deep.
    """
    writer = _Writer(buildkit=buildkit, escape="`" if escape == "windows" else "\\")
    if escape == "windows":
        writer.lines.append("#escape=`")
    writer.stage(stage, None, depth=0)
    return "\n".join((*writer.lines, ""))


class _Writer:
    def __init__(self, *, buildkit: bool, escape: str) -> None:
        self.lines: list[str] = []
        self._buildkit = buildkit
        self._escape = escape
        self._user: UnixUser | WindowsUser = _ROOT
        # The numbers of the stages that a name means here, the last of them counts; and which
        # one it means to Docker, which knows neither scopes nor case.
        self._scope: dict[str, list[int]] = {}
        self._latest: dict[str, int] = {}
        self._count = 0

    def stage(self, stage: Stage, name: str | None, *, depth: int) -> None:
        if depth > MAX_STAGE_DEPTH:
            raise SpecError(f"stages more than {MAX_STAGE_DEPTH} deep", code="spec.too-deep")
        for child_name, child in stage.builds:
            self.stage(child, child_name, depth=depth + 1)
            self.lines.append("")
            self._scope.setdefault(child_name, []).append(self._count)
            self._latest[child_name.lower()] = self._count
            self._count += 1
        self._user = _ADMINISTRATOR if self._escape == "`" else _ROOT
        named = "" if name is None else f" as {_line(name, 'the name of a stage')}"
        self.lines.append(f"FROM {self._base(stage.from_)}{named}")
        self.lines += [self._instruction(op) for op in stage.ops]
        for child_name, _ in stage.builds:
            self._scope[child_name].pop()

    def _instruction(self, op: Op) -> str:
        match op:
            case Comment(text):
                line = "\n".join(f"# {part}" for part in text.split("\n"))
            case Workdir(path):
                line = f"WORKDIR {_line(path, 'a workdir')}"
            case Shell(argv):
                words = ", ".join(f'"{_line(word, "a shell")}"' for word in argv)
                line = f"SHELL [ {words} ]"
            case Env(name, value):
                line = f'ENV {_line(name, "a name")}="{self._quoted(_line(value, "a value"))}"'
            case User(user):
                self._user = user
                line = f"USER {_line(_user_text(user), 'a user')}"
            case Run():
                line = self._run(op)
            case Copy():
                line = self._copy(op)
        return line

    def _run(self, run: Run) -> str:
        mounts = ""
        if self._buildkit:
            mounts = self._mounts("secret", run.secrets) + self._mounts("cache", run.cache)
        lines = (line.strip(_BLANKS) for line in run.shell.split("\n"))
        return f"RUN {mounts}" + f" {self._escape}\n    ".join(lines)

    def _mounts(self, kind: str, mounts: Iterable[Cache | SecretMount]) -> str:
        return "".join(f"--mount=type={kind},{self._options(mount)} " for mount in mounts)

    def _options(self, mount: Cache | SecretMount) -> str:
        if isinstance(self._user, WindowsUser):
            raise SpecError(
                f"{mount.id!r} is mounted for the user {self._user.name!r}, who has no number: "
                "BuildKit wants one for caches and secrets",
                hint="put (user (uid N) (gid N)) before the run, or leave out --buildkit",
                code="dockerfile.windows-user",
            )
        pairs = [("id", mount.id), ("target", mount.target), ("uid", str(self._user.uid))]
        pairs += mount.buildkit_options
        return _line(",".join(f"{key}={value}" for key, value in pairs), "a mount")

    def _copy(self, copy: Copy) -> str:
        words: list[str] = []
        if isinstance(self._user, UnixUser) and self._user != _ROOT:
            words.append(f"--chown={_user_text(self._user)}")
        if copy.from_ is not None:
            words.append(f"--from={self._source(copy.from_)}")
        words.append(" ".join(copy.src))
        return _line(" ".join(("COPY", *words, copy.dst)), "a path")

    def _base(self, base: str) -> str:
        if base.lower() in self._latest:
            raise SpecError(
                f"the base {base[:60]!r} has the name of a stage above it, "
                "and a Dockerfile's FROM would take that one",
                hint="give the stage another name, or the base its tag",
                code="dockerfile.stage-name",
            )
        return _line(base, "a base")

    def _source(self, name: str) -> str:
        meant: Sequence[int] = self._scope.get(name, ())
        if meant and meant[-1] != self._latest[name.lower()]:
            raise SpecError(
                f"the name {name!r} is also that of a stage further down, "
                "and a Dockerfile's COPY would take that one",
                hint="give each stage a name of its own",
                code="dockerfile.stage-name",
            )
        return name

    def _quoted(self, value: str) -> str:
        escaped = value.replace(self._escape, self._escape * 2)
        return escaped.replace('"', f'{self._escape}"')


def _user_text(user: UnixUser | WindowsUser) -> str:
    return user.name if isinstance(user, WindowsUser) else f"{user.uid}:{user.gid}"


def _line(text: str, what: str) -> str:
    if "\n" in text:
        raise SpecError(
            f"{what} with a newline has no place in a Dockerfile: {text[:60]!r}",
            hint="what follows the newline would be read as an instruction",
            code="dockerfile.newline",
        )
    return text
