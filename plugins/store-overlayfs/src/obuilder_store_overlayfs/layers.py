"""What each step changed, as one layer, and which layers lie below which.

On disk, beside the results::

    ROOT/layer/ID/tree     what step ID changed of its base's tree
    ROOT/layer/ID/work     the kernel's, while the step runs
    ROOT/layer/ID/below    the layers under it, the nearest first, one path a line
    ROOT/layer/ID/chain    the same and its own on top, for those that are built on it

A result without a `tree` here is whole: its `rootfs` holds all files.

`below` of a step is a hard link to `chain` of its base. So the number of links
of `chain` tells how many layers need a result, and the kernel keeps it right
whatever crashes: removing a layer takes its link away.
"""

import ctypes
import os
import shutil
import stat
from contextlib import ExitStack, suppress
from pathlib import Path

from obuilder.durable import write_file
from obuilder.errors import StoreError
from obuilder.types import Id

__all__ = ["Layers", "copy_other_names"]

_PRIVATE = "trusted.overlay."
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1  # linux/fs.h


class Layers:
    """The layers of one store; methods raise OSError unless they say otherwise."""

    def __init__(self, root: Path) -> None:
        self.home = root / "layer"
        self._results = root / "result"
        self.home.mkdir(exist_ok=True)

    def tree(self, id: Id) -> Path:
        """What a step changed; missing for a result that is whole."""
        return self.home / id / "tree"

    def is_layered(self, id: Id) -> bool:
        """Whether the result's files are in several layers."""
        return self.tree(id).is_dir()

    def below(self, id: Id) -> list[str]:
        """The layers under a step's own, the nearest first; paths from `home`."""
        return _read_lines(self.home / id / "below")

    def all(self, id: Id) -> list[str]:
        """A layered result's layers, the topmost first."""
        return [f"{id}/tree", *self.below(id)]

    def begin(self, id: Id, base: Id) -> None:
        """Make an empty layer for step `id` on result `base`.

        Its directory looks as the base's does, for it is what the step sees as `/`.
        """
        chain = self._chain(base)
        place = self.home / id
        place.mkdir()
        (place / "below").hardlink_to(chain)
        tree = self.tree(id)
        top = self.tree(base) if self.is_layered(base) else self._results / base / "rootfs"
        (place / "work").mkdir()
        _make_like(top, tree)
        _take_times(top.stat(), tree)

    def has_copied_links(self, id: Id) -> bool:
        """Whether the step wrote to a file of a lower layer that had several names."""
        try:
            entries = list((self.home / id / "work" / "index").iterdir())
        except FileNotFoundError:
            return False
        # Also there: what the kernel keeps at hand to hide a name with.
        return any(not entry.name.startswith("#") for entry in entries)

    def seal(self, id: Id) -> None:
        """Make the layer of an ended step one that others can lie on.

        The kernel refuses a directory under a new overlay as long as an older one has
        it on top, and any process that took a private view of the machine's mounts
        while the step ran keeps its overlay alive. So the layer gets another directory.
        """
        tree = self.tree(id)
        sealed = tree.with_name("sealed")
        shutil.rmtree(tree.with_name("work"))
        _make_like(tree, sealed)
        status = tree.stat()
        for entry in list(tree.iterdir()):
            entry.rename(sealed / entry.name)
        tree.rmdir()
        sealed.rename(tree)
        _take_times(status, tree)

    def check_unused(self, id: Id) -> None:
        """StoreError if other layers lie on this result."""
        with suppress(FileNotFoundError):  # nothing was ever built on it
            if (self.home / id / "chain").stat().st_nlink > 1:
                raise StoreError(
                    f"result {id} cannot be removed: others are built on it",
                    hint="delete those first",
                    code="store.in-use",
                )

    def _chain(self, id: Id) -> Path:
        chain = self.home / id / "chain"
        if not chain.exists():
            chain.parent.mkdir(exist_ok=True)
            lines = self.all(id) if self.is_layered(id) else [f"../result/{id}/rootfs"]
            whole = chain.with_name(f"chain-{os.urandom(6).hex()}")
            write_file(whole, "".join(f"{line}\n" for line in lines).encode())
            try:
                # Another builder's must stay, which may have links already.
                _rename_new(whole, chain)
            except FileExistsError:
                whole.unlink()
        return chain


def _make_like(model: Path, path: Path) -> None:
    """Make an empty directory that looks like another, but for its times."""
    path.mkdir()
    status = model.stat()
    os.chown(path, status.st_uid, status.st_gid)
    for name in os.listxattr(model):
        if not name.startswith(_PRIVATE):
            os.setxattr(path, name, os.getxattr(model, name))
    path.chmod(stat.S_IMODE(status.st_mode))


def _take_times(status: os.stat_result, path: Path) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _rename_new(source: Path, target: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(source), os.fsencode(target)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_NOREPLACE) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(target))


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError as error:
        raise StoreError(
            f"the layers below {path.parent.name} are not known: {error.strerror}",
            where=str(path),
            hint=f"delete the result: obuilder delete {path.parent.name}",
        ) from error


def copy_other_names(merged: Path, tree: Path, *, since_ns: int) -> None:
    """Bring into a mounted layer all names of files that were changed since then.

    The kernel keeps a file with several names that was changed under one of them in
    an index, which goes with the mount: in the layer alone the others would still
    show the base's old file. OSError.
    """
    with ExitStack() as opened:
        root, layer = _directory(merged, opened), _directory(tree, opened)
        rest, found = ["."], []
        while rest:
            above = rest.pop()
            # From the root's descriptor: with the store's own path it could be too long.
            with ExitStack() as inside:
                entries = os.scandir(_directory(above, inside, below=root))
                for entry in inside.enter_context(entries):
                    name = f"{above}/{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        rest.append(name)
                    elif _is_newer(entry, since_ns) and not _exists(name, layer):
                        found.append(name)
        for name in found:
            # Any change brings a name into the layer; this one changes nothing.
            status = os.stat(name, dir_fd=root, follow_symlinks=False)
            times = (status.st_atime_ns, status.st_mtime_ns)
            os.utime(name, ns=times, dir_fd=root, follow_symlinks=False)


def _directory(path: Path | str, opened: ExitStack, *, below: int | None = None) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=below)
    opened.callback(os.close, descriptor)
    return descriptor


def _is_newer(entry: os.DirEntry[str], since_ns: int) -> bool:
    return entry.stat(follow_symlinks=False).st_ctime_ns > since_ns


def _exists(name: str, directory: int) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
