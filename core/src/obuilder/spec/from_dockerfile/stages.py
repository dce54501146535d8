"""The stages of a Dockerfile: their names and numbers, and which continues which.

A spec's stage cannot continue another one, so it gets that one's ops before
its own: the same steps, which are made once.
"""

import re
from dataclasses import dataclass

from obuilder.spec.ast import Stage
from obuilder.spec.from_dockerfile.expand import Expander
from obuilder.spec.from_dockerfile.lines import Instruction
from obuilder.spec.from_dockerfile.refusals import no_equal, wrong
from obuilder.spec.from_dockerfile.state import PLATFORM_ARGS, StageState
from obuilder.spec.from_dockerfile.words import blank_words

__all__ = ["Stages"]

_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9._-]*")
_WITH_NAME = 3  # words: BASE AS NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class _Done:
    name: str
    line: int
    state: StageState


class Stages:
    """All that were begun; the last one is `current`."""

    def __init__(self, expander: Expander, *, windows: bool) -> None:
        self.current: StageState | None = None
        self._expander = expander
        self._windows = windows
        self._globals: dict[str, str] = {}
        self._remarks: list[str] = []
        self._name = ""
        self._line = 0
        self._done: list[_Done] = []
        # The newest stage of each name: as Docker reads it, in lower case, and as a spec does.
        self._by_name: dict[str, int] = {}
        self._by_spelling: dict[str, int] = {}
        self._continued: set[int] = set()

    def remark(self, text: str) -> None:
        """A comment; one before the first FROM waits for it."""
        if self.current is None:
            self._remarks.append(text)
        else:
            self.current.remark(text)

    def global_arg(self, name: str, value: str | None) -> None:
        """An ARG before the first FROM; one without a value keeps what is set."""
        if value is not None:
            self._globals[name] = value

    def global_value(self, name: str) -> str | None:
        """The default that an ARG in a stage takes over."""
        return self._globals.get(name)

    def global_lookup(self, name: str) -> str | None:
        """The value of a variable before the first FROM, and in each FROM."""
        if name in PLATFORM_ARGS:
            raise no_equal(f"${name} is Docker's own: the platform of the build")
        return self._globals.get(name)

    def begin(self, item: Instruction) -> None:
        """A FROM. After a SpecError the stage is there all the same, to find all faults in it."""
        self._close()
        self._line = item.line
        self._remarks += item.remarks
        self.current = StageState(base="", windows=self._windows)
        words = blank_words(item.text)
        if len(words) == _WITH_NAME and words[1].upper() == "AS":
            if not _NAME.fullmatch(words[2]):
                raise wrong(f"{words[2][:60]!r} is no name for a stage")
            self._name = words[2]
        elif len(words) != 1:
            raise wrong("FROM takes a base, or BASE AS NAME")
        for flag in item.flags:
            hint = "obuilder build takes --platform" if flag.startswith("--platform") else None
            raise no_equal(f"FROM {flag[:60]}", hint)
        self.current = self._first(self._expander(words[0], self.global_lookup, strict=True))
        for text in self._remarks:
            self.current.remark(text)
        self._remarks.clear()

    def source(self, name: str) -> str:
        """The stage that a COPY --from names, as the spec names it."""
        number = self._by_name.get(name.lower())
        if number is None and name.isascii() and name.isdigit() and len(name) < 10:  # noqa: PLR2004 - more than there can be
            number = int(name) if int(name) < len(self._done) else None
        if number is None:
            raise no_equal(
                f"COPY --from={name[:60]}, which is no stage before this one",
                f"write FROM {name[:60]} AS some-name, and copy from that",
            )
        if self.current is not None:
            self.current.sources.add(number)
        self._check_name(number)
        return self._done[number].name

    def finish(self) -> tuple[Stage | None, list[tuple[int, str]]]:
        """The last stage with those before it, and notes for those that it does not need."""
        self._close()
        if not self._done:
            return None, []
        *before, last = self._done
        copied = {number for done in self._done for number in done.state.sources}
        needed = self._needed()
        notes = [
            (
                done.line,
                f"stage {done.name} is not needed: BuildKit leaves it out; a spec has it",
            )
            for number, done in enumerate(before)
            if number not in needed and number not in self._continued
        ]
        # One that is only continued has its ops there.
        builds = tuple(
            (done.name, Stage(from_=done.state.base, ops=tuple(done.state.ops)))
            for number, done in enumerate(before)
            if number in copied or number not in self._continued
        )
        stage = Stage(from_=last.state.base, ops=tuple(last.state.ops), builds=builds)
        return stage, notes

    def _needed(self) -> set[int]:
        needed: set[int] = set()
        waiting = [len(self._done) - 1]
        while waiting:
            number = waiting.pop()
            if number not in needed:
                needed.add(number)
                waiting += self._done[number].state.sources
        return needed

    def _close(self) -> None:
        if self.current is None:
            return
        number = len(self._done)
        name = self._name or f"stage-{number}"
        self._done.append(_Done(name=name, line=self._line, state=self.current))
        if self._name:
            self._by_name[name.lower()] = number
        self._by_spelling[name] = number
        self._name = ""

    def _first(self, base: str) -> StageState:
        number = self._by_name.get(base.lower())
        if number is not None:
            self._continued.add(number)
            for source in self._done[number].state.sources:
                self._check_name(source)
            return self._done[number].state.child(self._expander.budget)
        if not base:
            raise wrong("FROM without a base")
        if base == "scratch":
            raise no_equal(
                "FROM scratch is no image",
                "take a base from an archive that holds an empty directory",
            )
        return StageState(base=base, windows=self._windows)

    def _check_name(self, number: int) -> None:
        name = self._done[number].name
        if self._by_spelling[name] != number:
            raise no_equal(
                f"the stage {name} is copied from where a newer one has its name",
                "give each stage a name of its own",
            )
