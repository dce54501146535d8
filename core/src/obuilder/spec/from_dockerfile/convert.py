"""The instructions of a Dockerfile to the ops and stages of a spec."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from obuilder.spec.ast import Run, Stage, UnixUser
from obuilder.spec.from_dockerfile.copies import copy_ops
from obuilder.spec.from_dockerfile.expand import Budget, Expander
from obuilder.spec.from_dockerfile.lines import Instruction, Remark, read_lines
from obuilder.spec.from_dockerfile.mounts import given_once, run_flags
from obuilder.spec.from_dockerfile.owners import chown_owner, run_user
from obuilder.spec.from_dockerfile.refusals import Refusals, no_equal, wrong
from obuilder.spec.from_dockerfile.stages import Stages
from obuilder.spec.from_dockerfile.state import PLATFORM_ARGS, ROOT, Kind, StageState
from obuilder.spec.from_dockerfile.words import Words, blank_words, is_only_heredoc, json_words
from obuilder.spec.suggest import nearest

__all__ = ["Converted", "from_dockerfile"]

_METADATA = ("CMD", "ENTRYPOINT", "EXPOSE", "HEALTHCHECK", "LABEL", "MAINTAINER", "STOPSIGNAL")
_REFUSED = {
    "ADD": ("ADD unpacks archives and fetches URLs", "COPY takes files as they are"),
    "ONBUILD": ("ONBUILD is for builds on the image, and a spec makes no image", None),
    "VOLUME": ("VOLUME drops what later steps write there, and a spec keeps it", None),
}
_NO_FLAGS = ("ARG", "ENV", "SHELL", "USER", "WORKDIR")
_SCANNER_ARGS = ("BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE")
_SPECIAL = re.compile(r"""[$'"`\\]""")
_LEADING_TABS = re.compile("^\t+", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A spec, and what a person should know of it: lines of text that begin with file:line."""

    stage: Stage
    notes: tuple[str, ...]


def from_dockerfile(
    text: bytes,
    *,
    file: str = "<dockerfile>",
    ignore_metadata: bool = False,
    kind: Kind = lambda _source: None,
) -> Converted:
    """The spec with the meaning of a Dockerfile.

    DockerfileRefused lists all that has no equal; its refusals have the codes
    `dockerfile.no-equal`, `dockerfile.syntax` and `dockerfile.too-large`.
    `ignore_metadata` drops what only describes an image. `kind` tells files
    from directories among the sources. Takes time linear in the text.
    """
    refusals = Refusals(file)
    source = read_lines(text.decode("utf-8", "surrogateescape"), refusals)
    converter = _Converter(source.escape, refusals, kind)
    converter.ignore_metadata = ignore_metadata
    for item in source.items:
        converter.add(item)
    stage, more = converter.stages.finish()
    if stage is not None and not refusals:
        notes = sorted((*converter.notes, *more))
        return Converted(stage=stage, notes=tuple(f"{file}:{line}: {text}" for line, text in notes))
    if stage is None:
        refusals.add(1, wrong("found no FROM, expected one"))
    raise refusals.error()


class _Converter:
    def __init__(self, escape: str, refusals: Refusals, kind: Kind) -> None:
        self.notes: list[tuple[int, str]] = []
        self.ignore_metadata = False
        self._refusals = refusals
        self._kind = kind
        self._words = Words(escape)
        self._expander = Expander(escape, Budget())
        self.stages = Stages(self._expander, windows=escape == "`")
        self._line = 0
        self._instructions: dict[str, Callable[[Instruction, StageState], None]] = {
            "ARG": self._arg,
            "COPY": self._copy,
            "ENV": self._env,
            "RUN": self._run,
            "SHELL": self._shell,
            "USER": self._user,
            "WORKDIR": self._workdir,
        }

    def add(self, item: Instruction | Remark) -> None:
        """Convert one; what cannot be is noted."""
        self._line = item.line
        if isinstance(item, Remark):
            self.stages.remark(item.text)
            return
        with self._refusals.at(item.line):
            if item.name == "FROM":
                self.stages.begin(item)
                return
            for text in item.remarks:
                self.stages.remark(text)
            self._instruction(item)

    def _instruction(self, item: Instruction) -> None:
        name = item.name
        if name in _METADATA:
            if not self.ignore_metadata:
                what = f"{name} describes an image, and a spec makes none"
                raise no_equal(what, "--ignore-metadata drops it")
            self._note(f"{name} is dropped")
        elif name in _REFUSED:
            raise no_equal(*_REFUSED[name])
        elif name not in self._instructions:
            near = nearest(name, (*self._instructions, "FROM"))
            hint = f"did you mean {near}?" if near else None
            raise wrong(f"unknown instruction {name[:60]!r}", hint)
        elif name in _NO_FLAGS and item.flags:
            raise wrong(f"{name} {item.flags[0][:60]}: it takes no flags")
        elif name == "ARG" and self.stages.current is None:
            for name, value in self._assignments(item, self.stages.global_lookup):
                self.stages.global_arg(name, value)
        elif self.stages.current is None:
            raise wrong(f"{name} before the first FROM")
        else:
            self.stages.current.size += len(item.text) + sum(len(doc.text) for doc in item.heredocs)
            self._instructions[name](item, self.stages.current)

    def _note(self, text: str) -> None:
        self.notes.append((self._line, text))

    def _expand(self, text: str, state: StageState) -> str:
        return self._expander(text, state.lookup)

    def _assignments(
        self, item: Instruction, lookup: Callable[[str], str | None]
    ) -> Iterator[tuple[str, str | None]]:
        """The names and values of an ARG, one by one: each sees what those before it have set."""
        words = self._words.quoted(item.text)
        for word in words:
            name, equals, value = word.partition("=")
            if not name:
                raise wrong("ARG without a name")
            if _SPECIAL.search(name):
                raise no_equal(f"ARG {name[:60]}: Docker's versions differ in what it is called")
            if name in PLATFORM_ARGS:
                raise no_equal(f"ARG {name} is Docker's own: the platform of the build")
            yield name, self._expander(value, lookup) if equals else None
        if not words:
            raise wrong("ARG without a name")

    def _arg(self, item: Instruction, state: StageState) -> None:
        for name, value in self._assignments(item, state.lookup):
            default = self.stages.global_value(name) if value is None else value
            if name in _SCANNER_ARGS:
                self._note(f"ARG {name} is for Docker's scanner, no variable: it is dropped")
            elif default is not None:
                state.set_env(name, default)
            elif state.declare_arg(name):
                self._note(f"ARG {name} has no default: taken as not set")

    def _env(self, item: Instruction, state: StageState) -> None:
        words = self._words.quoted(item.text)
        pairs: list[tuple[str, str]] = []
        if words and "=" not in words[0]:
            parts = item.text.split(maxsplit=1)
            if len(parts) < 2:  # noqa: PLR2004 - a name and a value
                raise wrong("ENV with a name and no value")
            pairs.append((parts[0], parts[1]))
        for word in words if not pairs else ():
            name, equals, value = word.partition("=")
            if not equals:
                raise wrong(f"ENV with {word[:60]!r}, which has no =", "values go in quotes")
            pairs.append((name, value))
        # Each sees what was set before this instruction.
        expanded = [(self._expand(name, state), self._expand(text, state)) for name, text in pairs]
        if not expanded or not all(name for name, _ in expanded):
            raise wrong("ENV without a name")
        for name, value in expanded:
            state.set_env(name, value)

    def _workdir(self, item: Instruction, state: StageState) -> None:
        path = self._expand(item.text, state)
        if not path:
            raise wrong("WORKDIR without a path")
        state.set_workdir(path)
        if isinstance(state.user, UnixUser) and state.user != ROOT:
            self._note(
                f"WORKDIR {path}: if it is missing, Docker makes it the user's, a spec's run root's"
            )

    def _user(self, item: Instruction, state: StageState) -> None:
        user = self._expand(item.text, state)
        state.set_user(run_user(user, windows=state.windows))

    def _shell(self, item: Instruction, state: StageState) -> None:
        argv = json_words(item.text)
        if not argv:
            raise wrong('SHELL takes a list, as in SHELL ["/bin/sh", "-c"]')
        state.set_shell(argv)

    def _run(self, item: Instruction, state: StageState) -> None:
        flags = run_flags(item.flags, state, partial(self._expand, state=state))
        make = partial(Run, cache=flags.cache, secrets=flags.secrets, network=flags.network)
        argv = json_words(item.text)
        if argv is None:
            state.run(make(shell=_command(item)))
        elif not argv:
            raise wrong("RUN without a command")
        else:
            # What a run executes is its shell's words and one more.
            state.run_program(argv[:-1], make(shell=argv[-1]))

    def _copy(self, item: Instruction, state: StageState) -> None:
        if item.heredocs:
            what = "a COPY of a heredoc: a spec copies files only"
            raise no_equal(what, "put the text in a file, or have a RUN write it")
        from_: str | None = None
        owner = state.user if state.windows else ROOT
        given_once(item.flags)
        for flag in item.flags:
            name, _, value = flag.partition("=")
            if name == "--from":
                from_ = self.stages.source(value)
            elif name == "--chown":
                owner = chown_owner(self._expand(value, state))
            else:
                raise no_equal(f"COPY {flag[:60]}")
        array = json_words(item.text)
        listed = blank_words(item.text) if array is None else array
        words = [self._expand(word, state) for word in listed]
        ops, guessed = copy_ops(words, from_=from_, state=state, kind=self._kind)
        for op in ops:
            state.copy(op, owner)
        if guessed:
            names = ", ".join(repr(name[:60]) for name in guessed[:5])
            more = ", ..." if len(guessed) > 5 else ""  # noqa: PLR2004 - as many as are shown
            self._note(
                f"COPY: are {names}{more} files or directories? If it goes wrong, end those that "
                "are directories with /, and the destination of a file"
                + ("" if from_ else "; or use --context")
            )


def _command(item: Instruction) -> str:
    """The text for the shell; Docker hands it a heredoc, or runs the one that stands alone."""
    if not item.text:
        raise wrong("RUN without a command")
    if not item.heredocs:
        return item.text
    first = item.heredocs[0]
    if len(item.heredocs) == 1 and is_only_heredoc(item.text):
        body = first.text
        if first.chomp:
            body = _LEADING_TABS.sub("", body)
        if body.startswith("#!"):
            what = "a heredoc with a #! line: Docker makes a program of it"
            raise no_equal(what, "copy it as a file, and run that")
        return body
    return item.text + "".join(f"\n{doc.text}{doc.name}" for doc in item.heredocs)
