"""The flags of a RUN: caches, secrets and the network."""

import csv
from collections.abc import Callable
from dataclasses import dataclass

from obuilder.spec.ast import Cache, SecretMount, UnixUser
from obuilder.spec.from_dockerfile.refusals import no_equal, wrong
from obuilder.spec.from_dockerfile.state import StageState

__all__ = ["RunFlags", "run_flags"]

_SYNONYMS = {"dst": "target", "destination": "target", "src": "source", "ro": "readonly"}
_KINDS = {
    "bind": "a spec shows a command no files but its own, caches and secrets",
    "tmpfs": "a spec has no mounts but caches and secrets",
    "ssh": "a spec shows a command no agent",
}
_CACHE_OPTIONS = {"sharing", "mode", "gid"}
_SECRET_OPTIONS = {"required", "mode", "gid"}


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


def _mount(text: str, state: StageState, expand: Callable[[str], str]) -> Cache | SecretMount:
    given = {key: expand(value) for key, value in _pairs(text).items()}
    kind = given.pop("type", "bind")
    if kind in _KINDS:
        raise no_equal(f"--mount=type={kind}: {_KINDS[kind]}")
    if kind not in {"cache", "secret"}:
        raise wrong(f"--mount=type={kind[:60]}")
    uid = given.pop("uid", None)
    if uid is not None and uid != _uid(state):
        raise no_equal(
            f"a {kind} of uid {uid[:60]}: a spec gives it to the user of the command",
            "put a USER with that number before the RUN",
        )
    return _cache(given, state) if kind == "cache" else _secret(given, state)


def _pairs(text: str) -> dict[str, str]:
    try:
        fields = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise wrong(f"--mount={text[:60]}: {error}") from None
    pairs: dict[str, str] = {}
    for field in fields:
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        key = _SYNONYMS.get(key, key)
        if key in pairs:
            raise wrong(f"--mount has {key[:60]} twice")
        pairs[key] = value if equals else "true"
    return pairs


def _uid(state: StageState) -> str:
    return str(state.user.uid) if isinstance(state.user, UnixUser) else ""


def _cache(given: dict[str, str], state: StageState) -> Cache:
    target = given.pop("target", "")
    if not target:
        raise wrong("a cache without a target")
    id = given.pop("id", "") or target
    if given.pop("readonly", "false") not in {"false", "0"}:
        raise no_equal("a cache that is read-only: in a spec it can be written")
    return Cache(
        id=id,
        target=state.joined(target),
        buildkit_options=_options(given, _CACHE_OPTIONS, "cache"),
    )


def _secret(given: dict[str, str], state: StageState) -> SecretMount:
    if "env" in given:
        raise no_equal("a secret as a variable: a spec shows it as a file", "give it a target")
    target = given.pop("target", "")
    id = given.pop("id", "") or target.rpartition("/")[2]
    if not id:
        raise wrong("a secret without an id")
    return SecretMount(
        id=id,
        target=state.joined(target or f"/run/secrets/{id}"),
        buildkit_options=_options(given, _SECRET_OPTIONS, "secret"),
    )


def _options(given: dict[str, str], known: set[str], kind: str) -> tuple[tuple[str, str], ...]:
    for key in given:
        if key not in known:
            raise no_equal(f"{key[:60]} of a {kind}")
    return tuple(given.items())
