"""The reflink store of obuilder."""

from obuilder_store_reflink.store import ReflinkStore

__all__ = ["ReflinkStore"]
