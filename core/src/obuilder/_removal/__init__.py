"""Removing a directory with all that is in it: `remove_directory`."""

from obuilder._removal.directory import remove_directory

__all__ = ["remove_directory"]
