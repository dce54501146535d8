"""The zfs store of obuilder."""

from obuilder_store_zfs.store import ZfsStore

__all__ = ["ZfsStore"]
