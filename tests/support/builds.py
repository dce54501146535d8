"""Parts for tests of the builder: a sandbox that plays a script, small images, one open builder."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio
from support.images import busybox_tarball

from obuilder import process
from obuilder._core.build import BuildContext, Builder
from obuilder._core.observe import Observer
from obuilder.errors import CommandFailed
from obuilder.events import Event, Note, Output, StepFinished
from obuilder.interfaces import BuildLog, Fetcher, Sandbox, Store
from obuilder.spec import parse
from obuilder.spec.ast import Stage
from obuilder.types import BaseImage, Env, FetchContext, Id, Leftover, LeftoverKind, RunConfig
from obuilder_store_rsync import RsyncStore

__all__ = [
    "IMAGE_ENV",
    "BusyboxFetcher",
    "Call",
    "Events",
    "Parts",
    "Script",
    "ScriptedSandbox",
    "TinyFetcher",
    "base_files",
    "descriptors",
    "open_parts",
    "stage",
]

IMAGE_ENV: Env = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What a sandbox was asked to do."""

    config: RunConfig
    rootfs: Path
    log: BuildLog


Script = Callable[[Call], Awaitable[None]]


@dataclass(kw_only=True)
class ScriptedSandbox(Sandbox["ScriptedSandbox.Config"]):
    """Plays `scripts[COMMAND]`; `exit N` fails, any other command appends its text to /ran.

    A tar stream on standard input is unpacked on the host: only for images of the tests' own.
    """

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No options."""

    scripts: dict[str, Script] = field(default_factory=dict)
    calls: list[RunConfig] = field(default_factory=list)
    containers: list[Leftover] = field(default_factory=list)

    default_shell = ("/bin/sh", "-c")

    @classmethod
    @asynccontextmanager
    async def open(cls, state_dir: Path, config: Config) -> AsyncIterator[Self]:
        yield cls()

    @property
    def commands(self) -> list[str]:
        return [call.argv[-1] for call in self.calls]

    async def run(
        self, config: RunConfig, rootfs: Path, *, log: BuildLog, stdin: int | None = None
    ) -> None:
        self.calls.append(config)
        command = config.argv[-1]
        if command in self.scripts:
            await self.scripts[command](Call(config=config, rootfs=rootfs, log=log))
        elif stdin is not None:
            async with log.pipe() as output:
                argv = ["tar", "-C", str(rootfs), "-xf", "-"]
                status = await process.call(argv, stdin=stdin, stdout=output, stderr=output)
            if status:
                raise CommandFailed(config.argv, status)
        elif command.startswith("exit "):
            await log.output(b"about to fail\n")
            raise CommandFailed(config.argv, int(command[5:]))
        else:
            await log.output(f"{command}\n".encode())
            with (rootfs / "ran").open("a") as file:
                file.write(f"{command}\n")

    async def leftovers(self) -> Sequence[Leftover]:
        return list(self.containers)

    async def discard(self, leftover: Leftover) -> None:
        assert leftover.kind is LeftoverKind.CONTAINER
        self.containers.remove(leftover)


@dataclass(kw_only=True)
class TinyFetcher(Fetcher["TinyFetcher.Config"]):
    """An image of two files that nothing can run in."""

    API: ClassVar[int] = 1

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Config:
        """No options."""

    image: BaseImage = BaseImage(env=IMAGE_ENV)  # noqa: RUF009 - frozen
    fetched: list[str] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, config: Config) -> AsyncIterator[Self]:
        yield cls()

    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        self.fetched.append(base)
        if self.before is not None:
            await self.before()
        assert list(scratch.iterdir()) == []
        (scratch / "temporary").touch()
        (rootfs / "etc").mkdir()
        (rootfs / "etc" / "base").write_text(base)
        await log.note(f"fetching {base}")
        return self.image


class BusyboxFetcher(TinyFetcher):
    """The busybox of the golden vectors, whatever is asked for."""

    async def fetch(
        self, base: str, rootfs: Path, *, log: BuildLog, scratch: Path, context: FetchContext
    ) -> BaseImage:
        self.fetched.append(base)
        # A thread, because what makes the tarball the first time runs a loop of its own.
        archive = await anyio.to_thread.run_sync(busybox_tarball)
        await process.run(["tar", "-C", str(rootfs), "-xf", str(archive)])
        return self.image


@dataclass
class Events:
    """Collects the events of a build; what they tell can be waited for."""

    seen: list[Event] = field(default_factory=list)
    _waiting: list[tuple[Callable[[], bool], anyio.Event]] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        self.seen.append(event)
        for is_so, reached in self._waiting:
            if is_so():
                reached.set()

    async def wait_for(self, text: bytes) -> None:
        await self._wait_until(lambda: text in self.output)

    async def wait_for_event(self, kind: type[Event]) -> None:
        await self._wait_until(lambda: any(isinstance(event, kind) for event in self.seen))

    async def _wait_until(self, is_so: Callable[[], bool]) -> None:
        if not is_so():
            reached = anyio.Event()
            self._waiting.append((is_so, reached))
            with anyio.fail_after(60):
                await reached.wait()

    @property
    def output(self) -> bytes:
        return b"".join(event.data for event in self.seen if isinstance(event, Output))

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.seen if isinstance(event, Note)]

    @property
    def steps(self) -> list[tuple[Id, bool]]:
        return [(event.id, event.cached) for event in self.seen if isinstance(event, StepFinished)]

    def context(
        self, *, src: Path | None = None, keep_going: bool = False, **secrets: bytes
    ) -> BuildContext:
        return BuildContext(on_event=self, src_dir=src, secrets=secrets, keep_going=keep_going)


@dataclass(kw_only=True)
class Parts:
    """An open builder and what it was made of."""

    builder: Builder
    store: Any
    sandbox: Any
    fetcher: TinyFetcher

    @property
    def failed(self) -> Path:
        return Path(self.store.state_dir, "failed")

    def temporary(self) -> list[str]:
        return sorted(os.listdir(self.store.root / "result-tmp"))


@asynccontextmanager
async def open_parts(
    root: Path,
    *,
    sandbox: Sandbox[Any] | None = None,
    fetcher: TinyFetcher | None = None,
    observer: Observer | None = None,
    jobs: int | None = None,
    max_steps: int | None = None,
    kind: type[Store[Any]] = RsyncStore,
) -> AsyncIterator[Parts]:
    """A builder on a store at `root`, by default rsync's, and with a scripted sandbox."""
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(kind.open(str(root), kind.Config()))
        sandbox = sandbox or ScriptedSandbox()
        fetcher = fetcher or TinyFetcher()
        builder = await stack.enter_async_context(
            Builder(store, sandbox, fetcher, observer=observer, jobs=jobs, max_steps=max_steps)
        )
        yield Parts(builder=builder, store=store, sandbox=sandbox, fetcher=fetcher)


def stage(text: str) -> Stage:
    """A parsed spec."""
    return parse(text.encode("utf-8", "surrogateescape"))


def base_files(root: Path, tree: Mapping[str, Mapping[str, str]]) -> Path:
    """Make a source tree as the golden files describe one."""
    root.mkdir(parents=True, exist_ok=True)
    for name, entry in tree.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        match entry.get("type", "file"):
            case "symlink":
                path.symlink_to(entry["target"])
            case "dir":
                path.mkdir()
            case "fifo":
                os.mkfifo(path)
            case _:
                path.write_text(entry["content"])
                path.chmod(int(entry.get("mode", "644"), 8))
    return root


def descriptors() -> list[str]:
    """The open descriptors of this process, without the one that lists them."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{name}:{os.readlink(f'/proc/self/fd/{name}')}")
        except FileNotFoundError:
            continue
    return sorted(found)
