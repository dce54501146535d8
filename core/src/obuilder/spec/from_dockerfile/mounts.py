"""The flags of a RUN: caches, secrets and the network."""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from obuilder.spec.ast import Cache, SecretMount, UnixUser
from obuilder.spec.from_dockerfile.refusals import no_equal, wrong
from obuilder.spec.from_dockerfile.state import StageState, cleaned

__all__ = ["RunFlags", "given_once", "run_flags"]

_SYNONYMS = {
    "dst": "target",
    "destination": "target",
    "src": "source",
    "ro": "readonly",
    "rw": "readwrite",
}
_KINDS = {
    "bind": "a spec shows a command no files but its own, caches and secrets",
    "tmpfs": "a spec has no mounts but caches and secrets",
    "ssh": "a spec shows a command no agent",
}
_CACHE_OPTIONS = {"sharing", "mode", "gid"}
_SECRET_OPTIONS = {"required", "mode", "gid"}
# As Go's strconv.ParseBool has them.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
# Keys that may stand without a value.
_BARE = frozenset({"readonly", "readwrite", "required"})
_SHARING = frozenset({"shared", "private", "locked"})
# 32 bits, in decimal and in octal.
_LONGEST_DECIMAL = 10
_OCTAL = re.compile("0*(?:[0-7]{1,10}|[1-3][0-7]{10})")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFlags:
    """Fields of a `run`."""

    cache: tuple[Cache, ...]
    secrets: tuple[SecretMount, ...]
    network: tuple[str, ...]


def run_flags(flags: tuple[str, ...], state: StageState, expand: Callable[[str], str]) -> RunFlags:
    """Docker's default network reaches the world; of a spec's, only the host's does. SpecError."""
    caches: list[Cache] = []
    secrets: list[SecretMount] = []
    network: tuple[str, ...] = ("host",)
    given_once([flag for flag in flags if not flag.startswith("--mount")])
    for flag in flags:
        name, _, value = flag.partition("=")
        if name == "--mount":
            mount = _mount(value, state, expand)
            (caches if isinstance(mount, Cache) else secrets).append(mount)  # type: ignore[arg-type]  # as its type says
        elif name == "--network" and value in {"host", "default", "none"}:
            network = () if value == "none" else ("host",)
        elif flag != "--security=sandbox":
            raise no_equal(f"RUN {flag[:60]}")
    return RunFlags(cache=tuple(caches), secrets=tuple(secrets), network=network)


def given_once(flags: Sequence[str]) -> None:
    """SpecError if one is given twice."""
    names = [flag.partition("=")[0] for flag in flags]
    if len(set(names)) < len(names):
        raise wrong(f"a flag that is given twice: {' '.join(names)[:60]}")


def _mount(text: str, state: StageState, expand: Callable[[str], str]) -> Cache | SecretMount:
    given = _pairs(text, expand)
    kind = given.pop("type", "bind").lower()
    if kind in _KINDS:
        raise no_equal(f"--mount=type={kind}: {_KINDS[kind]}")
    if kind not in {"cache", "secret"}:
        raise wrong(f"--mount=type={kind[:60]}")
    uid = given.pop("uid", None)
    if uid is not None and _number("uid", uid) != _uid(state):
        raise no_equal(
            f"a {kind} of uid {uid[:60]}: a spec gives it to the user of the command",
            "put a USER with that number before the RUN",
        )
    return _cache(given, state) if kind == "cache" else _secret(given, state)


def _pairs(text: str, expand: Callable[[str], str]) -> dict[str, str]:
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise wrong(f"--mount={text[:60]}: {error}") from None
    pairs: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.lower()
        key = _SYNONYMS.get(key, key)
        if key in pairs:
            raise wrong(f"--mount has {key[:60]} twice")
        if not equals and key not in _BARE:
            raise wrong(f"--mount has {key[:60]!r} without a value")
        if key == "required" and "type" not in pairs:
            raise wrong("--mount has required before its type")
        pairs[key] = expand(value) if equals else "true"
    return pairs


def _uid(state: StageState) -> int | None:
    return state.user.uid if isinstance(state.user, UnixUser) else None


def _cache(given: dict[str, str], state: StageState) -> Cache:
    target = given.pop("target", "")
    if not target:
        raise wrong("a cache without a target")
    id = given.pop("id", "") or cleaned(target)
    read_only = _is_true("readonly", given.pop("readonly", "false"))
    if read_only or not _is_true("readwrite", given.pop("readwrite", "true")):
        raise no_equal("a cache that is read-only: in a spec it can be written")
    place = _joined(state, target)
    if place == "/":
        raise wrong("a cache at /")
    return Cache(id=id, target=place, buildkit_options=_options(given, _CACHE_OPTIONS, "cache"))


def _secret(given: dict[str, str], state: StageState) -> SecretMount:
    if "env" in given:
        raise no_equal("a secret as a variable: a spec shows it as a file", "give it a target")
    target = given.pop("target", "")
    id = given.pop("id", "")
    source = given.pop("source", "")
    if id and source:
        raise wrong("a secret with an id and a source")
    id = id or source or (_base(target) if target else "")
    if not id:
        raise wrong("a secret without an id")
    return SecretMount(
        id=id,
        target=_joined(state, target or f"/run/secrets/{_base(id)}"),
        buildkit_options=_options(given, _SECRET_OPTIONS, "secret"),
    )


def _base(path: str) -> str:
    """The last part of a path, as Go's path.Base has it."""
    return path.rstrip("/").rpartition("/")[2] or "/"


def _joined(state: StageState, target: str) -> str:
    """Docker cleans the path that it makes of a relative one, and takes `..` away by the text."""
    absolute = target.startswith("/") and ".." not in target.split("/")
    return target if absolute else cleaned(state.joined(target))


def _options(given: dict[str, str], known: set[str], kind: str) -> tuple[tuple[str, str], ...]:
    for key, value in given.items():
        if key not in known:
            raise no_equal(f"{key[:60]} of a {kind}")
        if key == "sharing" and value.lower() not in _SHARING:
            raise wrong(f"sharing={value[:60]}, expected shared, private or locked")
        if key == "mode" and not _OCTAL.fullmatch(value):
            raise wrong(f"mode={value[:60]}, expected an octal number")
        if key == "required":
            _is_true(key, value)
        if key == "gid":
            _number(key, value)
    return tuple(given.items())


def _is_true(key: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise wrong(f"{key}={value[:60]}, expected true or false")
    return value in _TRUE


def _number(key: str, value: str) -> int:
    digits = value.lstrip("0")
    is_number = re.fullmatch("[0-9]+", value) and len(digits) <= _LONGEST_DECIMAL
    if not is_number or int(digits or "0") >= 1 << 32:
        raise wrong(f"{key}={value[:60]}, expected a number of 32 bits")
    return int(digits or "0")
