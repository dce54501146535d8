"""The rsync store of obuilder."""

from obuilder_store_rsync.store import RsyncStore

__all__ = ["RsyncStore"]
