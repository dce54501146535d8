"""What a Dockerfile says that a spec cannot: each with its line, all of them in one error."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from obuilder.errors import SpecError

__all__ = ["DockerfileRefused", "Refusals", "no_equal", "too_large", "wrong"]

_MOST_SHOWN = 100
_LONGEST_SHOWN = 200


def no_equal(what: str, hint: str | None = None) -> SpecError:
    """It means something that no spec can say."""
    return SpecError(what, hint=hint, code="dockerfile.no-equal")


def wrong(what: str, hint: str | None = None) -> SpecError:
    """Docker would not take it either."""
    return SpecError(what, hint=hint, code="dockerfile.syntax")


def too_large(what: str) -> SpecError:
    """A short Dockerfile may stand for a very long spec."""
    return SpecError(what, code="dockerfile.too-large")


class DockerfileRefused(SpecError):
    """All that stands in the way; `refusals` are in the order of the lines."""

    default_code = "dockerfile.refused"

    def __init__(self, file: str, refusals: Sequence[SpecError]) -> None:
        count = len(refusals)
        things = "one thing has" if count == 1 else f"{count} things have"
        super().__init__(f"{things} no equal in a spec", where=file)
        self.refusals = tuple(refusals)

    def __str__(self) -> str:
        lines = [f"{self.where}: {self.what}", *map(str, self.refusals[:_MOST_SHOWN])]
        if len(self.refusals) > _MOST_SHOWN:
            lines.append(f"and {len(self.refusals) - _MOST_SHOWN} more")
        return "\n".join(lines)


class Refusals:
    """Collects them, so that a person hears of all at once."""

    def __init__(self, file: str) -> None:
        self._file = file
        self._found: list[tuple[int, SpecError]] = []

    def add(self, line: int, error: SpecError) -> None:
        """Note that `line` cannot be converted."""
        where = f"{self._file}:{line}"
        hint = _shown(error.hint) if error.hint else None
        found = SpecError(_shown(error.what), where=where, hint=hint, code=error.code)
        self._found.append((line, found))

    @contextmanager
    def at(self, line: int) -> Iterator[None]:
        """What the block raises is noted, and what comes after it goes on."""
        try:
            yield
        except SpecError as error:  # it is raised again at the end, with all the others
            self.add(line, error)

    def __bool__(self) -> bool:
        return bool(self._found)

    def error(self) -> DockerfileRefused:
        """All that was noted."""
        self._found.sort(key=lambda found: found[0])
        return DockerfileRefused(self._file, [error for _, error in self._found])


def _shown(text: str) -> str:
    # It quotes the file, which may hold anything.
    short = text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in short)
