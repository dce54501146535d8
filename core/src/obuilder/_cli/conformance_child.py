"""The pytest plugin of the process that tries a backend: what is tried, and the way to tell.

Each line on the descriptor it is given is a JSON object: a `location` before a
store is made there; a test that is `begun`; a `test` that ended, with `broken`:
why, or null; and at last `end`: without it the process died on the way.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import pytest

from obuilder._cli.conformance_place import remove_store
from obuilder._cli.global_options import GlobalOptions
from obuilder._core.drivers.plugins import KINDS
from obuilder._core.session import load_backend

__all__ = ["Candidate", "Task"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What the process is to do; `location` is a new one, `fd` takes the lines."""

    kind: str
    options: GlobalOptions
    location: str | None
    base: str | None
    missing_base: str | None
    lacks: Sequence[str]
    fd: int

    def to_json(self) -> str:
        """As one argument."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """What `to_json` wrote."""
        tree = json.loads(text)
        return cls(**{**tree, "options": GlobalOptions(**tree["options"])})


class Candidate:
    """The backend that is tried, and how it does."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.settings = task.options.settings()
        self._count = 0
        self._reasons: list[str] = []
        (kind,) = (kind for kind in KINDS if kind.name == task.kind)
        found: tuple[type[Any], object] = load_backend(kind, self.settings)
        self.backend, self.config = found

    def place(self) -> Iterator[str]:
        """A location for one test; the store there is removed afterwards."""
        self._count += 1
        location = f"{self.task.location}-{self._count}"
        self.tell(location=location)
        yield location
        anyio.run(remove_store, self.backend, location, self.config)

    def options(self) -> str:
        """The arguments of the backend's Config, as JSON."""
        config: Any = self.config
        default = type(config)()
        names = [field.name for field in dataclasses.fields(config) if field.init]
        values = {name: getattr(config, name) for name in names}
        said = {name: each for name, each in values.items() if each != getattr(default, name)}
        return json.dumps(said, default=str)

    def tell(self, **line: object) -> None:
        """Write one line."""
        os.write(self.task.fd, f"{json.dumps(line)}\n".encode())

    def pytest_pycollect_makeitem(self, name: str, obj: object) -> None:
        """Take back the abilities that the backend does not claim."""
        if name.startswith("Test"):
            for ability in self.task.lacks:
                setattr(obj, ability, pytest.fixture(lambda _self: False, name=ability))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell of a test that begins: it may be the last one."""
        self.tell(begun=nodeid.rpartition("::")[2])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Tell of a test when its last part has ended."""
        if report.failed:
            self._reasons.append(_reason(report))
        elif report.skipped:
            self._reasons.append("was skipped, so that nothing is known")
        if report.when == "teardown":
            name, _, variant = report.nodeid.rpartition("::")[2].partition("[")
            broken = "; ".join(self._reasons) or None
            self.tell(test=name, variant=variant.rstrip("]"), broken=broken)
            self._reasons.clear()

    def pytest_sessionfinish(self) -> None:
        """Tell that all have been tried."""
        self.tell(end=True)


@pytest.fixture
def candidate(request: pytest.FixtureRequest) -> Candidate:
    """The backend that is tried."""
    plugin = request.config.pluginmanager.get_plugin("obuilder-candidate")
    assert isinstance(plugin, Candidate)  # noqa: S101 - pytest_configure has registered it
    return plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    """The one argument."""
    parser.addoption("--obuilder-task", required=True, help="What to do, as JSON.")


def pytest_configure(config: pytest.Config) -> None:
    """Load the backend."""
    task = Task.from_json(config.getoption("--obuilder-task"))
    config.pluginmanager.register(Candidate(task), "obuilder-candidate")


def _reason(report: pytest.TestReport) -> str:
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(report.longrepr if crash is None else crash.message)
    first = next((line.strip() for line in text.splitlines() if line.strip()), "failed")
    return first if report.when == "call" else f"{report.when}: {first}"
