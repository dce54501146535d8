"""A copy whose source changes under its hands, or whose receiver goes away."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from obuilder._core.manifest import scan
from obuilder._core.transfer import send
from obuilder.errors import SourceError
from obuilder.types import ROOT

pytestmark = pytest.mark.anyio


def shrink(path: Path) -> None:
    path.write_text("ab")


def grow(path: Path) -> None:
    path.write_text("abcdef" * 10000)


def rewrite(path: Path) -> None:
    path.write_text("ABCD")


def remove(path: Path) -> None:
    path.unlink()


def become_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def become_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lose_its_directory(path: Path) -> None:
    shutil.rmtree(path.parent)


def have_a_file_for_a_directory(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")


@pytest.mark.parametrize(
    "change",
    [
        shrink,
        grow,
        rewrite,
        remove,
        become_a_link,
        become_a_fifo,
        become_a_directory,
        lose_its_directory,
        have_a_file_for_a_directory,
    ],
)
@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_source_that_changed_since_it_was_read_is_an_error(
    change: Callable[[Path], None], kind: str, tmp_path: Path
) -> None:
    path = tmp_path / "src" / "d" / "f"
    path.parent.mkdir(parents=True)
    if kind == "link":
        path.symlink_to("nowhere")
    else:
        path.write_text("abcd")
    manifest = scan(tmp_path / "src", "d")
    if kind == "link":
        path.unlink(missing_ok=True)
        path.write_text("abcd")
    change(path)
    (tmp_path / "rootfs").mkdir()
    before = os.listdir("/proc/self/fd")
    with pytest.raises(SourceError) as caught:
        send(
            source=tmp_path / "src",
            manifests=[manifest],
            dst="/x",
            user=ROOT,
            rootfs=tmp_path / "rootfs",
            output=io.BytesIO(),
        )
    assert caught.value.code == "source.changed"
    assert caught.value.hint
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_receiver_that_went_away_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(1 << 20))
    manifest = scan(tmp_path, "f")
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError), os.fdopen(writer, "wb") as output:
        send(
            source=tmp_path,
            manifests=[manifest],
            dst="/x",
            user=ROOT,
            rootfs=tmp_path,
            output=output,
        )
