"""What is mounted below a directory is found under its odd names, and taken away."""

from pathlib import Path

import pytest

from obuilder._mounts import mounted_below, unmount_below
from obuilder.process import run

pytestmark = pytest.mark.anyio


async def test_what_is_mounted_below_is_taken_away_and_stays_whole(tmp_path: Path) -> None:
    victim, top, other = tmp_path / "victim", tmp_path / "top", tmp_path / "top2"
    (victim / "inner").mkdir(parents=True)
    (victim / "file").write_text("kept")
    outer = top / "a blank\tand\\octal 040"
    for place in (outer, other):
        place.mkdir(parents=True)
    try:
        for source, place in ((victim, outer), (victim, outer / "inner"), (victim, other)):
            await run(("mount", "--bind", str(source), str(place)))
        assert mounted_below(top) == [outer, outer / "inner"]
        await unmount_below(top)
        assert mounted_below(top) == []
        assert mounted_below(tmp_path) == [other]
        assert list(outer.iterdir()) == []
    finally:
        await unmount_below(tmp_path)
    assert (victim / "file").read_text() == "kept"
