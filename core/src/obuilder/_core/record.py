"""What we keep for each id besides OBuilder's columns, in the database and beside the result."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from obuilder.errors import StoreError
from obuilder.types import Id

__all__ = ["SIDE_FILE", "StepRecord", "read_side_file", "side_file"]

SIDE_FILE = "obuilder.json"
"""Beside `rootfs`, `log` and `env`; a clone inherits its base's until it writes its own."""

_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """`preimage` is redacted; `digest` and `platform` are those of a base import."""

    op: str
    context: str
    preimage: str
    duration_s: float
    size_bytes: int | None = None
    digest: str | None = None
    platform: str | None = None


def side_file(id: Id, parent: Id | None, record: StepRecord) -> bytes:
    """The contents of the file beside the result."""
    return json.dumps(
        {"version": _VERSION, "id": id, "parent": parent, **asdict(record)}, indent=1
    ).encode()


def read_side_file(result: Path, id: Id) -> tuple[Id | None, StepRecord] | None:
    """Parent and record of a result; None if it has none of its own (OBuilder made it).

    Blocking. Raises StoreError for one that is damaged.
    """
    path = result / SIDE_FILE
    try:
        data = json.loads(path.read_bytes())
        if data["id"] != id:
            return None
        parent = data["parent"]
        record = StepRecord(**{name: data[name] for name in StepRecord.__slots__})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{path} cannot be read: {error}",
            code="store.damaged-result",
            hint=f"remove the result: obuilder delete {id}",
        ) from error
    return (Id(parent) if parent else None), record
