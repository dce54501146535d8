"""The sections of the settings that are the core's own."""

import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import TypeVar

from obuilder._core.limits import check_count
from obuilder._core.options import Value, fill, option_names, unknown_key

__all__ = [
    "BUILD",
    "HEALTHCHECK",
    "PLUGINS",
    "BuildSettings",
    "HealthcheckSettings",
    "PluginsSettings",
    "own_section",
]

BUILD = "build"
HEALTHCHECK = "healthcheck"
PLUGINS = "plugins"

T = TypeVar("T")
S = TypeVar("S", bound=Mapping[str, Value])


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """The section `build`."""

    jobs: int = 0
    """How many steps are made at once; 0: as many as there are processors."""

    max_steps: int | None = None
    """How many are made at once by all processes of the store together; None: any number."""

    keep_going: bool = False
    """After a failure, make the stages that do not depend on it all the same."""

    def __post_init__(self) -> None:
        if self.jobs < 0:
            raise ValueError(f"jobs must be 0 or more, not {self.jobs}")
        if self.max_steps is not None:
            check_count("max-steps", self.max_steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthcheckSettings:
    """The section `healthcheck`."""

    base: str = "busybox"
    """The image to run in; it must have /bin/sh."""

    timeout_s: float = 30.0
    """How long the command may take; the fetch does not count."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ValueError(f"timeout-s must be more than 0, not {self.timeout_s}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginsSettings:
    """The section `plugins`."""

    disable: tuple[str, ...] = ()
    """Hook plugins that are not loaded, by the name of the entry point or of the distribution."""


def own_section(config: type[T], name: str, sections: MutableMapping[str, S]) -> T:
    """Take the section `name` out of `sections`. ConfigError as `fill`, and for an unknown key."""
    section: Mapping[str, Value] = sections.pop(name) if name in sections else {}
    known = option_names(config)
    for key, value in section.items():
        if key not in known:
            raise unknown_key(name, key, value, known=known)
    return fill(config, name, section)
