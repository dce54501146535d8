"""Base images from root file system tarballs, for obuilder."""

from obuilder_fetcher_archive.fetcher import ArchiveFetcher

__all__ = ["ArchiveFetcher"]
