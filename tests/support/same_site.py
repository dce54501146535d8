"""Building the specs of same_specs.py on any store, and what came of them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from support.images import busybox_tarball
from support.same_specs import SPECS, make_source

from obuilder import BuildContext, Settings, open_builder, parse
from obuilder.events import StepFinished
from obuilder.testing._trees import describe_tree

__all__ = ["Built", "Site"]

Built = tuple[str, Mapping[str, object]]
"""Id and files."""

_STEPS = 2 * len(SPECS)  # at least


@dataclass
class Site:
    """What the specs need: a base beside them and a source tree."""

    directory: Path
    seen: list[StepFinished] = field(default_factory=list)

    def __post_init__(self) -> None:
        source = self.directory / "src"
        source.mkdir()
        make_source(source)
        shutil.copy(busybox_tarball(), self.directory / "busybox.tar")

    def built(self, location: str, options: Mapping[str, object]) -> dict[str, Built]:
        """The id and the files of each spec on one store."""
        settings = Settings.from_dict({"store": location, **options})
        return anyio.run(self._built, settings)

    async def _built(self, settings: Settings) -> dict[str, Built]:
        context = BuildContext(
            src_dir=self.directory / "src",
            spec_dir=self.directory,
            secrets={"token": b"12345"},
            on_event=self._hear,
        )
        found = {}
        async with open_builder(settings) as builder:
            for name, text in SPECS.items():
                stage = parse(text.encode(), file=name)
                result = await builder.build(stage, context)
                found[name] = (str(result.id), _files(result.path / "rootfs"))
            self.seen.clear()
            for text in SPECS.values():
                await builder.build(parse(text.encode()), context)
            assert len(self.seen) > _STEPS
            assert all(step.cached for step in self.seen)
        return found

    def _hear(self, event: object) -> None:
        if isinstance(event, StepFinished):
            self.seen.append(event)


def _files(rootfs: Path) -> Mapping[str, object]:
    """All that is to be equal: times as well in `/t`, whose specs set them."""
    return {
        path: entry if path.split("/")[0] == "t" else entry[:3] + entry[4:]
        for path, entry in describe_tree(rootfs).items()
        if isinstance(entry, tuple)
    }
