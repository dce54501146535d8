"""The btrfs store of obuilder."""

from obuilder_store_btrfs.store import BtrfsStore

__all__ = ["BtrfsStore"]
