"""Where settings come from: packaged defaults, files, environment, command line; the last one wins.

Each value remembers its source, so that an error can name the place to mend.
"""

import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Self

from obuilder._core.drivers.driver_names import is_qualified
from obuilder._core.options import Value, canonical, describe
from obuilder._core.own_sections import (
    BUILD,
    HEALTHCHECK,
    PLUGINS,
    BuildSettings,
    HealthcheckSettings,
    PluginsSettings,
    own_section,
)
from obuilder._platforms import machine_platform
from obuilder.errors import ConfigError
from obuilder.spec.suggest import nearest

__all__ = ["Settings", "known_schemes"]

SYSTEM_FILE = Path("/etc/obuilder/config.toml")
SYSTEM_STORE = Path("/var/lib/obuilder")

_CHOICES = ("store", "sandbox", "fetcher", "platform")
_DEFAULTS = "defaults.toml"
_SCHEMES = "schemes"
_VARIABLES = {key: f"OBUILDER_{key.upper()}" for key in _CHOICES}
_CONFIG_VARIABLE = "OBUILDER_CONFIG"
_DISABLE_VARIABLE = "OBUILDER_DISABLE_PLUGINS"
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Layer:
    """What one source says: a TOML tree, and for a command line the texts of its values."""

    tree: Mapping[str, object]
    source: str
    base: Path
    texts: Mapping[tuple[str, str], str] | None = None
    packaged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings, merged; made by `load` or `from_dict`.

    `choices` has store, sandbox, fetcher and platform; `sections` has one
    mapping for each driver that something was said about, by canonical key.
    """

    choices: Mapping[str, Value]
    sections: Mapping[str, Mapping[str, Value]]
    build: BuildSettings
    healthcheck: HealthcheckSettings
    plugins: PluginsSettings
    default_location: str

    @classmethod
    def load(
        cls,
        *,
        config_file: Path | None = None,
        choices: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        system_file: Path = SYSTEM_FILE,
    ) -> Self:
        """What the `obuilder` command uses.

        `choices` are its `--store` and so on by name, `options` its `-o`
        arguments. ConfigError: `config.file-missing`, `config.file-unreadable`,
        `config.syntax`, `config.unknown-key`, `config.duplicate-key`,
        `config.type`, `config.value`.
        """
        environ = os.environ if environ is None else environ
        layers = [_packaged()]
        standard = (system_file, _user_file(environ))
        layers += [_file(path) for path in standard if path is not None and _exists(path)]
        variable = environ.get(_CONFIG_VARIABLE)
        if config_file is not None:
            layers.append(_file(config_file, named_by="--config"))
        elif variable:
            layers.append(_file(Path(variable), named_by=_CONFIG_VARIABLE))
        layers += _environment(environ)
        here = Path.cwd()
        for key, text in (choices or {}).items():
            layers.append(_Layer(tree={key: text}, source=f"--{key}", base=here))
        layers += [_option(text, here) for text in options]
        return cls._merged(layers, environ)

    @classmethod
    def from_dict(
        cls, tree: Mapping[str, object], *, environ: Mapping[str, str] | None = None
    ) -> Self:
        """What a program says, as a configuration file would; over the packaged defaults alone.

        The environment is asked only for the user's data directory. ConfigError as `load`.
        """
        plain = {key: _plain(value) for key, value in tree.items()}
        layer = _Layer(tree=plain, source="settings", base=Path.cwd())
        return cls._merged([_packaged(), layer], os.environ if environ is None else environ)

    @classmethod
    def _merged(cls, layers: Sequence[_Layer], environ: Mapping[str, str]) -> Self:
        choices: dict[str, Value] = {}
        sections: dict[str, dict[str, Value]] = {}
        for layer in layers:
            for key, value in layer.tree.items():
                if key in _CHOICES:
                    choices[key] = _choice(key, value, layer)
                else:
                    section = sections.setdefault(canonical(key), {})
                    section.update(_section(key, value, layer))
        choices.setdefault("platform", Value(value=machine_platform(), source="this machine"))
        return cls(
            choices=choices,
            build=own_section(BuildSettings, BUILD, sections),
            healthcheck=own_section(HealthcheckSettings, HEALTHCHECK, sections),
            plugins=own_section(PluginsSettings, PLUGINS, sections),
            sections=sections,
            default_location=str(_data_directory(environ)),
        )

    def source(self, key: str) -> str:
        """Which source set `store`, `sandbox`, `fetcher` or `platform`."""
        return self.choices[key].source

    def is_default(self, key: str) -> bool:
        """Whether nobody but the packaged defaults set `store` and so on."""
        return self.choices[key].packaged

    def place(self, where: str | None) -> str | None:
        """`store`, or `section.option`, with the source that set it; anything else as it is."""
        key, _, option = (where or "").partition(".")
        value = self.choices.get(key) if not option else None
        value = self.sections.get(key, {}).get(option) if option else value
        if where is None or value is None or value.packaged:
            return where
        return _place(value.source, where)

    @property
    def store(self) -> str:
        """The store's driver, perhaps with its distribution: `driver_names`."""
        return str(self.choices["store"].value).partition(":")[0]

    @property
    def location(self) -> str:
        """What the store's driver is given: the text after `driver:`, or the default place."""
        return str(self.choices["store"].value).partition(":")[2] or self.default_location

    @property
    def sandbox(self) -> str:
        """The sandbox's driver, likewise."""
        return str(self.choices["sandbox"].value)

    @property
    def fetcher(self) -> str:
        """The driver of the fetcher for bases that no scheme claims, likewise."""
        return str(self.choices["fetcher"].value)

    @property
    def platform(self) -> str:
        """`OS/ARCH[/VARIANT]` that images are wanted for."""
        return str(self.choices["platform"].value)


def _place(source: str, key: str) -> str:
    # The command line's own option, or a variable, says which one it is.
    return source if source in {f"--{key}", _VARIABLES.get(key)} else f"{source}: {key}"


def _packaged() -> _Layer:
    tree = _packaged_file()
    del tree[_SCHEMES]
    return _Layer(tree=tree, source=_DEFAULTS, base=Path("/"), packaged=True)


def _packaged_file() -> dict[str, Any]:
    return tomllib.loads(resources.files("obuilder._core").joinpath(_DEFAULTS).read_text("utf-8"))


def known_schemes() -> tuple[str, ...]:
    """Schemes of fetchers that exist, whether they are installed or not."""
    return tuple(_packaged_file()[_SCHEMES])


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a directory that may not be searched: it is then not ours to read
        return False


def _file(path: Path, *, named_by: str | None = None) -> _Layer:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(
            f"there is no file {path}", where=named_by, code="config.file-missing"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}",
            where=named_by,
            code="config.file-unreadable",
        ) from None
    return _Layer(tree=_parsed(data, path), source=str(path), base=path.absolute().parent)


def _parsed(data: bytes, path: Path) -> dict[str, object]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise ConfigError(
            "not UTF-8 text", where=f"{path}:{line}:{column}", code="config.syntax"
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, path) from None
    except RecursionError:
        raise ConfigError("nested too deep", where=str(path), code="config.syntax") from None


def _syntax_error(message: str, text: str, path: Path) -> ConfigError:
    line, column = text.count("\n") + 1, len(text) - text.rfind("\n")
    position = _POSITION.search(message)
    if position and position[1]:
        line, column = int(position[1]), int(position[2])
    what = _POSITION.sub("", message)
    return ConfigError(
        f"not valid TOML: {what[:1].lower()}{what[1:]}",
        where=f"{path}:{line}:{column}",
        code="config.syntax",
    )


def _environment(environ: Mapping[str, str]) -> Iterator[_Layer]:
    here = Path.cwd()
    for key, variable in _VARIABLES.items():
        if environ.get(variable):
            yield _Layer(tree={key: environ[variable]}, source=variable, base=here)
    disabled = [name for name in re.split(r"[,\s]+", environ.get(_DISABLE_VARIABLE, "")) if name]
    if disabled:
        tree = {PLUGINS: {"disable": disabled}}
        yield _Layer(tree=tree, source=_DISABLE_VARIABLE, base=here)


def _option(text: str, here: Path) -> _Layer:
    name, equals, written = text.partition("=")
    section, dot, key = name.strip().partition(".")
    key = key.strip()
    if not (equals and dot and section and key):
        choice = f"use --{section}=…" if section in _CHOICES else None
        raise ConfigError(
            f"expected section.option=value, found {text!r}",
            where="-o",
            hint=choice or "such as -o healthcheck.timeout-s=60",
            code="config.option",
        )
    try:
        tree = tomllib.loads(f"value = {written}")
    except (tomllib.TOMLDecodeError, RecursionError):
        tree = {}
    # One value, not a line that goes on with other keys; what is no TOML is text.
    value = tree["value"] if tree.keys() == {"value"} else written
    return _Layer(
        tree={section: {key: value}},
        source="-o",
        base=here,
        texts={(canonical(section), canonical(key)): written},
    )


def _choice(key: str, value: object, layer: _Layer) -> Value:
    if not isinstance(value, str):
        raise ConfigError(
            f"expected text, found {describe(value)}",
            where=_place(layer.source, key),
            code="config.type",
        )
    if key == "platform" and not _PLATFORM.fullmatch(value):
        raise ConfigError(
            f"{value!r} is not a platform",
            where=_place(layer.source, key),
            hint="write OS/ARCH, such as linux/amd64 or linux/arm64",
            code="config.value",
        )
    driver, colon, _ = value.partition(":")
    # `a/b` alone is rather the path of somebody who forgot the driver of a store.
    is_path = "/" in driver and not (is_qualified(driver) and (colon or key != "store"))
    if key != "platform" and (not driver or is_path or "\0" in value):
        form = f"DRIVER:{value if '/' in driver else '/PATH'}" if key == "store" else "DRIVER"
        raise ConfigError(
            f"expected {'driver:location' if key == 'store' else 'the name of a driver'},"
            f" found {value!r}",
            where=_place(layer.source, key),
            hint=f"write {form}; obuilder backends lists the drivers",
            code="config.value",
        )
    return Value(value=value, source=layer.source, base=layer.base, packaged=layer.packaged)


def _section(key: str, value: object, layer: _Layer) -> dict[str, Value]:
    if not isinstance(value, Mapping):
        known = (*_CHOICES, BUILD, HEALTHCHECK, PLUGINS)
        meant = nearest(key, known)
        raise ConfigError(
            f"unknown setting {key!r}",
            where=layer.source,
            hint=f"did you mean {meant!r}?" if meant else f"there are: {', '.join(known)}",
            code="config.unknown-key",
        )
    texts = layer.texts or {}
    section: dict[str, Value] = {}
    for name, item in value.items():
        option = canonical(name)
        if option in section:
            raise ConfigError(
                f"{option!r} is set twice, with - and with _",
                where=_place(layer.source, key),
                code="config.duplicate-key",
            )
        text = texts.get((canonical(key), option))
        section[option] = Value(
            value=item, source=layer.source, base=layer.base, text=text, packaged=layer.packaged
        )
    return section


def _plain(value: object) -> object:
    # A program may say Path and tuple where TOML has text and arrays.
    match value:
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case list() | tuple():
            return [_plain(item) for item in value]
        case Path():
            return str(value)
    return value


def _user_file(environ: Mapping[str, str]) -> Path | None:
    directory = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    return directory / "obuilder" / "config.toml" if directory else None


def _data_directory(environ: Mapping[str, str]) -> Path:
    if os.geteuid() == 0:
        return SYSTEM_STORE
    directory = _xdg(environ, "XDG_DATA_HOME", ".local/share")
    return directory / "obuilder" if directory else SYSTEM_STORE


def _xdg(environ: Mapping[str, str], variable: str, default: str) -> Path | None:
    # The standard says that a relative one is to be ignored.
    path = environ.get(variable, "")
    if path.startswith("/"):
        return Path(path)
    home = environ.get("HOME", "")
    return Path(home) / default if home.startswith("/") else None
