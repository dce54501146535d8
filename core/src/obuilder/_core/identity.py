"""Pre-images and ids: the one place that decides what makes two steps the same.

The records and their field order are OBuilder 0.7's; tests/golden/ids.json pins them.
"""

import hashlib
from collections.abc import Sequence

from obuilder._core.context import Context
from obuilder.spec import Sexp, to_mach
from obuilder.spec.ast import Run
from obuilder.types import Id, Secret, User

__all__ = ["base_id", "context_text", "copy_preimage", "identify", "redacted", "run_preimage"]

_REDACTED: Sexp = "<secret>"


def base_id(base: str) -> Id:
    """The id of a base import: the hash of its text."""
    return _digest(base)


def identify(preimage: Sexp) -> Id:
    """The id of a step: the hash of its pre-image's machine form."""
    return _digest(to_mach(preimage))


def run_preimage(
    base: Id, context: Context, op: Run, *, user: User, secrets: Sequence[Secret]
) -> Sexp:
    """What identifies a `run`; `secrets` in the order of the op, listed in reverse."""
    values: tuple[Sexp, ...] = tuple(
        (("value", _text(secret.value)), ("target", secret.target)) for secret in reversed(secrets)
    )
    return (
        ("base", base),
        ("workdir", context.workdir),
        ("user", _user(user)),
        ("env", context.env),
        ("cmd", op.shell),
        ("shell", context.shell),
        ("network", op.network),
        ("mount_secrets", values),
    )


def copy_preimage(*, base: Id, user: User, manifests: Sequence[Sexp], dst: str) -> Sexp:
    """What identifies a `copy`: several manifests into `DST/`, or one as `DST`."""
    op: Sexp = (
        ("Copy_items", (tuple(manifests), dst))
        if dst.endswith("/")
        else ("Copy_item", (manifests[0], dst))
    )
    return (("base", base), ("user", _user(user)), ("op", op))


def redacted(preimage: Sexp) -> str:
    """The machine form with every secret's value replaced: what may be stored and shown."""
    if isinstance(preimage, str):
        return to_mach(preimage)
    return to_mach(tuple(_without_values(field) for field in preimage))


def context_text(context: Context, user: User) -> str:
    """The context after a step, as text for the database."""
    return to_mach(
        (
            ("workdir", context.workdir),
            ("user", _user(user)),
            ("shell", context.shell),
            ("env", context.env),
        )
    )


def _without_values(field: Sexp) -> Sexp:
    match field:
        case ("mount_secrets", tuple(secrets)):
            hidden: tuple[Sexp, ...] = tuple(
                (("value", _REDACTED), secret[1])
                for secret in secrets
                if len(secret) == len(("value", "target"))
            )
            return ("mount_secrets", hidden)
    return field


def _user(user: User) -> Sexp:
    return (("uid", str(user.uid)), ("gid", str(user.gid)))


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _digest(text: str) -> Id:
    return Id(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest())
