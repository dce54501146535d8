"""What a store holds after a kill, and whether that is what it would hold without."""

import hashlib
import json
import os
import re
import select
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from support.kill_operations import OPERATIONS, SECRET
from support.kill_places import Place, checking, opened
from support.kill_points import DurableSteps, in_process
from support.zfs_trees import of_zfs

from obuilder.errors import DatabaseError

__all__ = [
    "Look",
    "Verified",
    "look",
    "look_at",
    "verify",
    "wrong_after",
    "wrong_at_last",
    "wrong_results",
]

_DYING_S = 10.0
_EMPTY = (
    "result-tmp",
    "cache-tmp",
    "state/locks",
    "state/scratch",
    "state/publishing",
    "state/trying",
    "state/sandboxes/runc/bundles",
    "state/sandboxes/runc/runc",
)
_DATABASES = re.compile(r"db\.sqlite(\.damaged-[^/]*)?")
_RECORDS = re.compile(r"[^.].*")
# What the next command to open the store puts in order; all else would be damage.
_LEFT = re.compile(r" fsck\.(leftover-|stale-lock|scratch|unknown-result|missing-result|cache-rec)")
_MEASURED = ("duration_s", "size_bytes", "tenure")

Tree = Mapping[str, tuple[object, ...]]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A store, without what differs from run to run."""

    results: Mapping[str, Tree]
    caches: Mapping[str, Tree]
    failed: Mapping[str, Tree]
    rows: Mapping[str, tuple[object, ...]]
    left: tuple[str, ...]
    findings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was found after a kill.

    `at_once`: by a check that came first. Then once the store was opened, and once all was
    done again.
    """

    at_once: tuple[str, ...]
    opened: Mapping[str, Look] | None
    outcome: Any
    last: Mapping[str, Look] = field(repr=False)


def verify(steps: DurableSteps, name: str, place: Place) -> Verified:
    """Open the store that a kill left, look, do the same again, and look once more."""

    async def main() -> Verified:
        at_once = tuple(await _check_at_once(place))
        try:
            await open_all(place)
        except DatabaseError:
            if not OPERATIONS[name].mends:
                raise
            after = None
        else:
            after = await look(place)
        outcome = await OPERATIONS[name].work(steps, place)
        await open_all(place)
        return Verified(at_once=at_once, opened=after, outcome=outcome, last=await look(place))

    return anyio.run(main, backend=place.backend)


def look_at(place: Place, *, opening: bool = True) -> Mapping[str, Look]:
    """`look`, from a process of its own, once the stores have been opened."""
    found: Mapping[str, Look] = in_process(_look_at, place, opening, watched=[]).value
    return found


def _look_at(steps: DurableSteps, place: Place, opening: bool) -> Mapping[str, Look]:
    del steps

    async def main() -> Mapping[str, Look]:
        if opening:
            await open_all(place)
        return await look(place)

    return anyio.run(main, backend=place.backend)


async def _check_at_once(place: Place) -> list[str]:
    """What a check finds that comes before anything has been put in order."""
    found: list[str] = []
    for root in (place.root, place.other):
        if (root / "state").is_dir():
            async with checking(place, root) as checker:
                findings = (await checker.check()).findings
            found += [f"{root.name}: {each.code} {each.key}: {each.what}" for each in findings]
    return found


async def open_all(place: Place) -> None:
    """Open the stores of a place, as the next command would: what died there is recovered."""
    for root in (place.root, place.other):
        if root.exists() or root == place.root:
            async with opened(place, root):
                pass


async def look(place: Place) -> Mapping[str, Look]:
    """All that the stores of a place hold."""
    return {
        root.name: await _look(place, root) for root in (place.root, place.other) if root.exists()
    }


async def _look(place: Place, root: Path) -> Look:
    async with checking(place, root) as checker:
        findings = (await checker.check()).findings
        # Before it is closed: of some stores results are whole only while somebody uses them.
        results = {path.name: _result(path) for path in (root / "result").iterdir()}
    return Look(
        results=results,
        # A step that was killed after its cache was released has used it once more.
        caches={path.name: _tree(path, once=True) for path in (root / "cache").iterdir()},
        failed={path.name: _failed(path) for path in _entries(root / "state/failed")},
        rows=_rows(root),
        left=tuple(_left(root)),
        findings=tuple(f"{each.code} {each.key}: {each.what}" for each in findings),
    )


def _entries(directory: Path) -> list[Path]:
    return list(directory.iterdir()) if directory.is_dir() else []


def _result(path: Path) -> Tree:
    tree = dict(_tree(path))
    with suppress(FileNotFoundError, ValueError):  # OBuilder's has none; what is damaged differs
        record = json.loads((path / "obuilder.json").read_bytes())
        tree["obuilder.json"] = tuple((k, v) for k, v in record.items() if k not in _MEASURED)
    return tree


def _failed(path: Path) -> Tree:
    """A failure that is kept, without whose it is."""
    tree = dict(_tree(path))
    with suppress(FileNotFoundError, ValueError):  # what is not whole differs
        words = json.loads((path / "error.json").read_bytes())
        tree["error.json"] = tuple((k, v) for k, v in words.items() if k != "tenure")
    return tree


def _tree(root: Path, *, once: bool = False) -> Tree:
    return {
        str(path.relative_to(root)): _entry(path, once=once) for path in [root, *root.rglob("*")]
    }


def _entry(path: Path, *, once: bool) -> tuple[object, ...]:
    status = path.lstat()
    inside: object = None
    if stat.S_ISREG(status.st_mode):
        data = path.read_bytes()
        inside = sorted(set(data.splitlines(True))) if once else hashlib.sha256(data).hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        inside = os.readlink(path)
    return oct(status.st_mode), status.st_uid, status.st_gid, inside


def _rows(root: Path) -> Mapping[str, tuple[object, ...]]:
    query = (
        "SELECT builds.id, rc, parent, op, preimage FROM builds"
        " LEFT JOIN obuilder_steps ON builds.id = obuilder_steps.id"
    )
    with (
        suppress(sqlite3.DatabaseError),  # damaged, or OBuilder's: as it was before
        closing(sqlite3.connect(root / "state/db/db.sqlite")) as connection,
    ):
        return {row[0]: row[1:] for row in connection.execute(query)}
    return {}


def _left(root: Path) -> Iterator[str]:
    """What should have been removed, unmounted or ended."""
    yield from _files_left(root)
    data_set = of_zfs(root)
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if f" {root}/" in line and not (data_set and _is_below(data_set, root, line)):
            yield f"mounted: {line}"
    for name in filter(None, (str(root), data_set)):
        yield from (f"process {pid}: {words}" for pid, words in _running(name))
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and SECRET in path.read_bytes():
                yield f"a secret in {path}"


def _is_below(data_set: str, root: Path, line: str) -> bool:
    """Whether a line tells of a whole data set below one that is mounted at `root`."""
    part, path = line.split(" ")[3:5]
    source = line.partition(" - ")[2].split(" ")[1]
    return part == "/" and source == f"{data_set}/{Path(path).relative_to(root)}"


def _files_left(root: Path) -> Iterator[str]:
    for place in _EMPTY:
        yield from (f"{place}/{path.name}" for path in _entries(root / place))
    for place, good in (("state/db", _DATABASES), ("state/caches", _RECORDS)):
        for path in _entries(root / place):
            if not good.fullmatch(path.name):
                yield f"{place}/{path.name}"
    for layer in _entries(root / "layer"):  # overlayfs alone has some
        if not (root / "result" / layer.name).is_dir():
            yield f"layer/{layer.name}"


def _running(name: str) -> Iterator[tuple[int, str]]:
    """Processes of a store that do not end; what was just killed may take a moment."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            words = (entry / "cmdline").read_bytes()
            mounts = (entry / "mountinfo").read_text() if _is_elsewhere(entry) else ""
            if os.fsencode(name) in words or name in mounts:
                pidfd = os.pidfd_open(int(entry.name))
                ended, _, _ = select.select([pidfd], [], [], _DYING_S)
                os.close(pidfd)
                if not ended:
                    yield int(entry.name), words.decode(errors="replace")


def _is_elsewhere(process: Path) -> bool:
    return os.readlink(process / "ns/mnt") != os.readlink("/proc/self/ns/mnt")


def wrong_after(
    verified: Verified, before: Mapping[str, Look], good: Mapping[str, Look], *, mends: bool
) -> list[str]:
    """What is wrong with stores that were opened after a kill.

    Each result is that of `before` the operation or of a `good` end of it, or not there.
    """
    known = {
        name: {**(before[name].results if name in before else {}), **each.results}
        for name, each in good.items()
    }
    wrong = wrong_results(verified.opened or {}, known, mends=mends)
    if not mends:
        wrong += [f"at once: {each}" for each in verified.at_once if not _LEFT.search(each)]
    return wrong


def wrong_results(
    looks: Mapping[str, Look], good: Mapping[str, Mapping[str, Tree]], *, mends: bool = False
) -> list[str]:
    """What is wrong with opened stores, each of whose results is as it should be, or not there.

    `mends`: other faults were there before the operation, which is to mend them.
    """
    wrong = []
    for name, seen in looks.items():
        known = good[name]
        wrong += [
            f"{name}: result {id} differs: {_difference(tree, known.get(id, {}))}"
            for id, tree in seen.results.items()
            if tree != known.get(id)
        ]
        if mends:
            continue
        wrong += [f"{name}: {each} is left" for each in seen.left]
        wrong += [f"{name}: {each}" for each in seen.findings]
        if seen.rows.keys() != seen.results.keys():
            wrong.append(f"{name}: {len(seen.rows)} rows, {len(seen.results)} results")
    return wrong


def wrong_at_last(verified: Verified, good: Mapping[str, Look], outcome: Any) -> list[str]:
    """What is not as if there had been no kill, once the operation was done again."""
    wrong = []
    if verified.outcome != outcome:
        wrong.append(f"it says {verified.outcome!r}, without a kill {outcome!r}")
    for name, wanted in good.items():
        seen = verified.last[name]
        for part in ("results", "caches", "failed", "rows", "left", "findings"):
            one, other = getattr(seen, part), getattr(wanted, part)
            if one != other:
                what = _difference(one, other) if isinstance(one, dict) else one
                wrong.append(f"at last {name}: {part} differ: {what}")
    return wrong


def _difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return "; ".join(
        f"{name}: {one.get(name)!s:.200} / {other.get(name)!s:.200}" for name in names[:5]
    )
