"""Writes a repository for a new backend from the templates beside this file."""

import logging
import re
from importlib import resources
from pathlib import Path

from obuilder._core.drivers.driver_names import normal_name
from obuilder._core.drivers.plugins import KINDS, Plugins
from obuilder.errors import ConfigError

__all__ = ["write_backend"]

_log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TOKEN = re.compile(r"@@(\w+)@@")

_FILES = {
    "pyproject.toml": "common/pyproject.toml",
    ".gitignore": "common/gitignore",
    ".github/workflows/test.yml": "common/ci.yml",
    "README.md": "@@kind@@/README.md",
    "src/@@package@@/__init__.py": "common/init.py",
    "src/@@package@@/@@kind@@.py": "@@kind@@/backend.py",
    "src/@@package@@/py.typed": None,
    "tests/test_@@module@@_@@kind@@.py": "@@kind@@/test.py",
}


def write_backend(kind: str, name: str, directory: Path | None) -> Path:
    """Write the files for a `kind` of this `name`; where. ConfigError, and nothing is written."""
    words = _words(kind, name)
    where = directory or Path(words["dist"])
    files = {_filled(target, words): _text(template, words) for target, template in _FILES.items()}
    try:
        if where.is_dir() and any(where.iterdir()):
            raise ConfigError(
                f"{where} is not empty",
                where="DIR",
                hint="name a directory that is empty or not there",
                code="cli.not-empty",
            )
        for target, text in files.items():
            path = where / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename or where}: {error.strerror}",
            where="DIR",
            code="cli.cannot-write",
        ) from error
    _warn_if_taken(words)
    return where


def _warn_if_taken(words: dict[str, str]) -> None:
    kind, name, dist = words["kind"], words["name"], words["dist"]
    for backend in Plugins().backends():
        if (backend.kind.name, backend.name) != (kind, name):
            continue
        if normal_name(backend.distribution) == dist:
            told = "installing yours replaces it"
        else:
            told = f"where both are installed, yours is named --{kind}={dist}/{name}"
        _log.warning("the %s %s is also in %s: %s", kind, name, backend.distribution, told)


def _words(kind: str, name: str) -> dict[str, str]:
    groups = {known.name: known.group for known in KINDS}
    if kind not in groups:
        raise ConfigError(
            f"there is no kind {kind!r} of backend",
            where="KIND",
            hint=f"there are: {', '.join(groups)}",
            code="cli.kind",
        )
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} cannot be a driver's name",
            where="NAME",
            hint="write small letters, digits and single hyphens, such as my-disk",
            code="cli.name",
        )
    module = name.replace("-", "_")
    return {
        "kind": kind,
        "group": groups[kind],
        "name": name,
        "module": module,
        "dist": f"obuilder-{kind}-{name}",
        "package": f"obuilder_{kind}_{module}",
        "class": "".join(part.capitalize() for part in (*name.split("-"), kind)),
    }


def _text(template: str | None, words: dict[str, str]) -> str:
    if template is None:
        return ""
    file = f"{_filled(template, words)}.tmpl"
    path = resources.files("obuilder._cli").joinpath("templates", file)
    return _filled(path.read_text("utf-8"), words)


def _filled(text: str, words: dict[str, str]) -> str:
    return _TOKEN.sub(lambda found: words[found[1]], text)
