"""How long steps take, written as OpenMetrics text at the end of each build."""

import os
from collections import Counter
from pathlib import Path

from obuilder import hookimpl
from obuilder.durable import write_file

__all__ = ["build_finished", "step_finished"]

VARIABLE = "OBUILDER_METRICS_FILE"

_Labels = tuple[str, str]
_steps: Counter[_Labels] = Counter()
_seconds: Counter[_Labels] = Counter()


@hookimpl
def step_finished(  # noqa: PLR0917 - they are given by name
    kind: str, cached: bool, seconds: float, error: BaseException | None
) -> None:
    """Count one step: kind is `from`, `run` or `copy`."""
    labels = (kind, "failed" if error else "cached" if cached else "built")
    _steps[labels] += 1
    _seconds[labels] += seconds  # type: ignore[assignment]  # a Counter of floats


@hookimpl
def build_finished() -> None:
    """Write the file that the environment names. An OSError is logged by obuilder."""
    path = os.environ.get(VARIABLE)
    if path:
        write_file(Path(path), _text().encode())


def _text() -> str:
    lines = ["# TYPE obuilder_step_seconds summary", "# UNIT obuilder_step_seconds seconds"]
    for labels in sorted(_steps):
        kind, outcome = labels
        where = f'{{kind="{kind}",outcome="{outcome}"}}'
        lines.append(f"obuilder_step_seconds_count{where} {_steps[labels]}")
        lines.append(f"obuilder_step_seconds_sum{where} {_seconds[labels]:.6f}")
    return "\n".join([*lines, "# EOF", ""])
