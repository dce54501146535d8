"""Names of the locks of a result; that of making or deleting it is the id itself."""

from obuilder.types import Id

__all__ = ["use_lock"]


def use_lock(id: Id) -> str:
    """The lock of whoever uses the result, shared, or deletes it, alone."""
    return f"use-{id}"
