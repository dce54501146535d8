"""The table of promises kept and broken."""

from dataclasses import dataclass, field

from obuilder._cli.output import Output

__all__ = ["Table"]

_REASON_CHARS = 300


@dataclass(kw_only=True)
class Table:
    """Prints a promise when the last of its variants (event loops, …) has ended."""

    output: Output
    kept: int = 0
    broken: int = 0
    _promise: str | None = None
    _reasons: dict[str, str] = field(default_factory=dict)

    def add(self, test: str, variant: str, broken: str | None) -> None:
        """One variant of a promise has ended."""
        if test != self._promise:
            self.flush()
        self._promise = test
        if broken:
            self._reasons[variant] = broken

    def flush(self) -> None:
        """Print the promise that is being collected."""
        if self._promise is None:
            return
        words = self._promise.removeprefix("test_").replace("_", " ")
        state = "BROKEN" if self._reasons else "kept"
        self.line(f"{state:<7} {words}")
        if self._reasons:
            self.broken += 1
        else:
            self.kept += 1
        told = set(self._reasons.values())
        for variant, reason in self._reasons.items():
            short = reason if len(reason) <= _REASON_CHARS else f"{reason[:_REASON_CHARS]}…"
            self.line(f"        {short}" if len(told) == 1 else f"        {variant}: {short}")
            if len(told) == 1:
                break
        self._promise = None
        self._reasons = {}

    def line(self, text: str) -> None:
        """Print a line."""
        self.output.write(f"{text}\n".encode("utf-8", "backslashreplace"))
