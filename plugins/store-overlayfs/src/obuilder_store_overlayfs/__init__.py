"""The overlayfs store of obuilder."""

from obuilder_store_overlayfs.store import OverlayfsStore

__all__ = ["OverlayfsStore"]
