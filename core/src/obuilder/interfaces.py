"""The three backends and the log, as promises: what the core calls, what it may rely on.

What commits is an `async with`: leaving the block normally commits, leaving it
by an exception (cancellation too) discards. Commit and discard run shielded
from cancellation. Errors are exceptions of `obuilder.errors`; cancellation is
anyio's own and is never swallowed.

A backend's own class body sets `API` (the number of the interface that it was
written against, now 1) and `Config` (a frozen dataclass that the core fills
from the settings and checks).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

from obuilder.errors import StoreError
from obuilder.types import BaseImage, FetchContext, Id, Leftover, RunConfig, User

__all__ = ["API_VERSION", "BuildLog", "Fetcher", "Sandbox", "Store"]

API_VERSION = 1
"""The newest interface that this core speaks; it loads 1 up to this."""

C = TypeVar("C")


class BuildLog(ABC):
    """Where a running step writes what a person reads. Safe to share between tasks."""

    @abstractmethod
    async def output(self, data: bytes) -> None:
        """Append raw output: stored with the result, sent to all followers."""

    @abstractmethod
    async def note(self, text: str) -> None:
        """Tell all followers something that is not output; it is not stored."""

    @abstractmethod
    def pipe(self) -> AbstractAsyncContextManager[int]:
        """A descriptor for a program's standard output and standard error.

        Both go to one pipe, so that their order is the program's. When the
        block is left, all that was written is in the log, also after an
        exception. Whoever got the descriptor must have closed it by then.
        """


class Store(ABC, Generic[C]):
    """Snapshots by id, and caches by name.

    A result is a directory with `rootfs/`, `log`, `env` and whatever else the
    core puts there; the store keeps it whole and does not look inside. `rootfs` need be
    no local directory, if the sandbox knows what it is (an image, a handle): a fetcher
    fills a directory, which such a store turns into its own when the build is saved. It
    then has a stream of its own, and `copy` cannot take from a stage.
    """

    API: ClassVar[int]
    Config: ClassVar[type]

    @property
    @abstractmethod
    def root(self) -> Path:
        """The store's own directory."""

    @property
    @abstractmethod
    def state_dir(self) -> Path:
        """Where the core keeps mutable state: the database, locks, sandbox state."""

    @classmethod
    @abstractmethod
    def open(cls, location: str, config: C) -> AbstractAsyncContextManager[Self]:
        """Open the store at `location` (the text after `driver:`).

        After: every directory of the layout exists. Removes nothing: another
        process may be using it.
        On failure: ConfigError if the location cannot serve (missing, wrong
        file system, no rights), with the command that would fix it; StoreError else.
        Concurrency: any number of processes may have one store open.
        """

    @abstractmethod
    def build(self, id: Id, *, base: Id | None = None) -> AbstractAsyncContextManager[Path]:
        """A temporary directory, empty or a clone of `base`, to become result `id`.

        Before: the caller holds the lock of `id`, no result `id` exists, and
        result `base` exists.
        After: `result(id)` is the directory, complete, and nothing can change it.
        On failure and cancellation: nothing remains, and a later attempt starts
        afresh. A commit that fails discards and raises StoreError.
        Cancellation: may interrupt the clone; a cancel that comes after the
        block ended finds the result saved.
        Concurrency: never twice at once for one id; at will for different ids,
        also on one base.
        """

    @abstractmethod
    async def result(self, id: Id) -> Path | None:
        """The directory of the saved result, or None. Cheap: called for every step.

        After: its tree can be read while the store is open and the caller holds the
        lock of `id`, or that of its use (`locks.use_lock`). A store that has to set
        trees up to be read may take them down again after that.
        """

    @abstractmethod
    async def log_file(self, id: Id) -> Path:
        """Where the log of a saved or running build lies; the file may not exist yet."""

    @abstractmethod
    async def delete(self, id: Id) -> None:
        """Remove a result if there is one.

        Before: the caller holds the lock of `id`, and has removed all that was
        built on it (a store that shares data with descendants may refuse otherwise).
        On failure: StoreError, the result is still whole or is gone.
        """

    @abstractmethod
    def cache(self, name: str, *, user: User) -> AbstractAsyncContextManager[Path]:
        """A private writable copy of the newest version of cache `name`.

        Before: `name` is any text. A cache that does not exist is created
        empty, owned by `user`, mode 0755.
        After: however the block was left, the copy has become the newest
        version, unless another copy was released in between: then it is gone.
        Concurrency: any number of copies at once, in any number of processes.
        """

    def cache_was_kept(self, copy: Path) -> bool | None:
        """Whether a copy, whose block of `cache` has ended, became the newest version.

        Asked once for each, at once. None: this store does not tell.
        """
        del copy
        return None

    @abstractmethod
    async def caches(self) -> Sequence[str]:
        """The names of all caches, each of which `delete_cache` accepts."""

    @abstractmethod
    async def delete_cache(self, name: str) -> None:
        """Remove a cache if there is one. CacheBusy while a copy of it is in use.

        On failure, cancellation and death: it is whole, or gone, or a leftover.
        """

    @abstractmethod
    async def complete_deletes(self) -> None:
        """Wait until the space of what was deleted shows in `df`."""

    @abstractmethod
    async def df(self) -> float:
        """Free space in percent, 0 to 100."""

    @abstractmethod
    async def leftovers(self) -> Sequence[Leftover]:
        """Temporary results and cache copies that exist now, whoever is using them."""

    @abstractmethod
    async def discard(self, leftover: Leftover) -> None:
        """Remove a leftover; nothing if it is gone.

        Before: the caller holds the lock of its key, so its maker is dead or done. CacheBusy
        for a copy of a cache that cannot go now, because another is copying that cache: it
        stays for the next who looks.
        On failure, another StoreError: it stays a leftover, which is told, and in the way of
        nobody who does not need its place. Cancellation: so too.
        """

    async def results(self) -> Sequence[Id]:
        """The ids of all saved results; a store that cannot list them says none.

        Only asked by what looks at the whole store, such as `clean`.
        """
        return ()

    async def keep(self, id: Id) -> Path | None:
        """Keep the tree of the running build `id`, which has failed, for a person to look at.

        Called inside the block of `build`, which will discard it. Returns where
        it is kept; None: this store keeps none.
        """
        del id
        return None

    async def size_added(self, id: Id) -> int | None:
        """Bytes that the running build `id` has added to its base; None: not known.

        Called inside the block of `build`, before it commits.
        """
        del id
        return None

    stream_formats: ClassVar[tuple[str, ...]] = ()
    """Streams of its own that `export` and `import_` speak, the best first: lower case, no blanks.

    Two stores that share one move results by it; all others by a tar of
    `result(id)`, which needs `rootfs` to be a local directory.
    """

    async def export(self, id: Id, sink: int, *, format: str, base: Id | None) -> None:
        """Write a result to a descriptor, as one of `stream_formats`.

        Before: the result exists, and so does result `base`, if it is not None: the
        receiver has that, and the difference to it is enough.
        On failure: StoreError.
        """
        del sink, base
        raise StoreError(f"result {id} cannot be sent as {format!r}", code="store.stream")

    def import_(
        self, id: Id, source: int, *, format: str, base: Id | None
    ) -> AbstractAsyncContextManager[Path]:
        """A temporary directory that holds what `source` brings, to become result `id`.

        As `build` in all else: before, after, failure, cancellation, concurrency. It has
        read `source` to its end when the block begins, which may still refuse
        what it sees. What the stream says of names and places is not trusted.
        On failure: StoreError; its code is `store.stream-base` if this store's `base`
        is not what the sender's was, so that the whole result may be sent instead.
        """
        del source, base
        raise StoreError(f"result {id} cannot be received as {format!r}", code="store.stream")

    async def erase(self) -> None:
        """Remove what `open` made that is no file below `root`: a data set, a volume.

        Before: nobody else has the store open; results, caches and leftovers are gone.
        After: the caller removes `root`, if it is still there.
        """


class Sandbox(ABC, Generic[C]):
    """Runs one command over a root file system."""

    API: ClassVar[int]
    Config: ClassVar[type]

    default_shell: tuple[str, ...] = ("/usr/bin/env", "bash", "-c")
    """What a `run` uses where its spec sets no `shell`."""

    @classmethod
    @abstractmethod
    def open(cls, state_dir: Path, config: C) -> AbstractAsyncContextManager[Self]:
        """Open the sandbox; `state_dir` is its own directory, created if missing.

        Removes nothing: other processes may be using `state_dir`.
        On failure: ConfigError if it cannot work here (no rights, no runtime).
        """

    @abstractmethod
    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        """Run `config.argv` in `rootfs`; standard input is `stdin` or empty.

        Before: nobody else uses `rootfs`; the caller holds the lock of `config.id`.
        After: the command and all it started are gone, nothing is mounted, its
        output is in the log.
        On failure: CommandFailed if the command ended badly (by a signal: its status
        is 128 and the signal's number), SandboxError if it could not be started,
        BuildError if `config` asks what this sandbox cannot honour.
        Cancellation: kills everything inside and waits until it is gone.
        """

    async def leftovers(self) -> Sequence[Leftover]:
        """Containers that exist now, whoever is using them; the key is the step's id."""
        return ()

    async def discard(self, leftover: Leftover) -> None:
        """Kill a container and remove it; nothing if it is gone.

        Before: the caller holds the lock of the id, so its builder is dead.
        After: nothing of it runs or writes any more.
        """
        del leftover


class Fetcher(ABC, Generic[C]):
    """Brings base images."""

    API: ClassVar[int]
    Config: ClassVar[type]

    scheme: ClassVar[str | None] = None
    """The driver's own name if it takes bases `NAME:…` whatever fetcher is configured."""

    @classmethod
    @abstractmethod
    def open(cls, config: C) -> AbstractAsyncContextManager[Self]:
        """Open the fetcher. Called when the first base is fetched, not before."""

    @abstractmethod
    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        """Fill the existing empty directory `rootfs` with the image `base` names.

        `base` is the whole text of `(from …)`, scheme included. Owners, modes and
        links are the image's. `scratch` is an empty directory on the store's file
        system for temporary files, a program's TMPDIR for instance; the core
        removes it afterwards. Nothing is written elsewhere.
        On failure: FetchError, one short message, and of it ImageError if the base is
        missing, damaged or not fit for use; `rootfs` may be half full, the core
        discards it. What a killed process has left hinders no later fetch.
        Cancellation: stops promptly and leaves nothing running, daemons neither.
        """
