"""Bad input: one short message that says what, where and how to fix it; no traceback."""

import gzip
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.command import Command


def explained(done: "subprocess.CompletedProcess[bytes]", status: int, *words: str) -> str:
    text = done.stderr.decode()
    assert done.returncode == status, text
    assert "Traceback" not in text
    assert 1 <= len(text.splitlines()) <= 5, text
    for word in words:
        assert word in text, text
    return text


def config(command: Command, text: str) -> tuple[str, str]:
    path = command.directory / "obuilder.toml"
    path.write_text(text)
    return "--config", str(path)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--store=rsink:/x", ("rsink", "rsync")),
        ("--store=nothinglike:/x", ("obuilder-store-nothinglike", "pip install")),
        ("--sandbox=rnc", ("rnc", "runc")),
        ("--fetcher=dokcer", ("dokcer", "docker")),
        ("--store=rsync:/proc/nope", ("/proc/nope",)),
        ("--store=btrfs:/proc", ("/proc", "btrfs", "mkfs.btrfs")),
        ("--store=btrfs:/nonexistent/pool", ("/nonexistent/pool",)),
    ],
)
def test_a_wrong_backend_or_location_is_explained(
    obuilder: Command, option: str, words: tuple[str, ...]
) -> None:
    spec = obuilder.write_spec("")
    done = obuilder("build", option, "-f", str(spec), str(obuilder.source))
    if "dokcer" in option:
        spec.write_text("((from busybox))")
        done = obuilder("build", option, "-f", str(spec), str(obuilder.source))
    explained(done, 2, *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("store = \n", ("obuilder.toml:1",)),
        ("[runc]\nfast-sink = true\n", ("fast-sink", "fast-sync")),
        ('[runc]\nfast-sync = "yes"\n', ("fast-sync", "true or false")),
        ("stroe = 'rsync:/x'\n", ("stroe", "store")),
        ("store = 3\n", ("store",)),
    ],
)
def test_a_wrong_setting_is_explained(obuilder: Command, text: str, words: tuple[str, ...]) -> None:
    spec = obuilder.write_spec("")
    done = obuilder("build", *config(obuilder, text), "-f", str(spec), str(obuilder.source))
    explained(done, 2, "obuilder.toml", *words)


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ("(rum (shell x))", ("spec:1:", "rum", "run")),
        ("(run (shel x))", ("spec:1:", "shel", "shell")),
        ("(run)", ("spec:1:", "shell")),
        ("(run (shell a) (shell b))", ("spec:1:", "shell")),
        ("(copy (src a))", ("spec:1:", "dst")),
        ("(copy (from (build x)) (src a) (dst b))", ("spec:1:", "x")),
        ("(user (gid 1) (uid 2))", ("spec:1:",)),
        ("(user (uid x) (gid 2))", ("spec:1:", "x")),
        ("(workdir a b)", ("spec:1:", "workdir")),
        ('(run (shell "x))', ("spec:1:",)),
        ("(env A)", ("spec:1:", "env")),
        ("run", ("spec:1:", "run")),
        (")", ("spec:1:",)),
    ],
)
def test_a_wrong_spec_is_explained(obuilder: Command, ops: str, words: tuple[str, ...]) -> None:
    explained(obuilder.build(ops), 2, *words)


def test_a_missing_file_is_explained(obuilder: Command) -> None:
    spec = str(obuilder.write_spec(""))
    src = str(obuilder.source)
    explained(obuilder("build", "-f", "nope.spec", src), 2, "nope.spec")
    explained(obuilder("build", "-f", spec, "/nonexistent"), 2, "/nonexistent")
    explained(obuilder("build", "-f", spec, spec), 2, spec, "directory")
    explained(obuilder("build", "-f", spec, "--secret", "tok:/nope", src), 2, "tok", "/nope")
    explained(obuilder("build", "-f", spec, "--secret", "tok", src), 2, "ID:FILE")
    explained(obuilder("build", "-f", spec, "--config", "/nope.toml", src), 2, "/nope.toml")
    explained(obuilder("build", "-f", spec, "-o", "nonsense", src), 2, "section.option=value")


def test_no_root_is_explained(obuilder: Command) -> None:
    spec = obuilder.write_spec('(run (shell "true"))')
    for path in (obuilder.directory, *obuilder.directory.parents):
        if path.stat().st_uid == 0 and path.stat().st_mode & 0o005 != 0o005:
            path.chmod(path.stat().st_mode | 0o055)
    argv = obuilder.argv("build", "-f", str(spec), str(obuilder.source))
    home = obuilder.directory / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    argv[1] = f"--store=rsync:{home}/store"
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *argv],
        capture_output=True,
        cwd="/",
        env=obuilder.environment(),
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    explained(done, 2, "root", "sudo")


def test_no_docker_engine_is_explained(obuilder: Command) -> None:
    obuilder.env = {"DOCKER_HOST": f"unix://{obuilder.directory}/no.sock"}
    spec = obuilder.directory / "spec"
    spec.write_text("((from busybox))")
    done = obuilder("build", "-f", str(spec), str(obuilder.source))
    explained(done, 3, "no.sock", "(from archive:")


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def cut_compressed(data: bytes) -> bytes:
    return cut(gzip.compress(data))


def flip(data: bytes) -> bytes:
    header = bytearray(data)
    header[700_000 // 512 * 512 : 700_000 // 512 * 512 + 512] = b"\xff" * 512
    return bytes(header[:512]) + b"\xff" * 512 + bytes(header[1024:])


@pytest.mark.parametrize("damage", [cut, cut_compressed, flip])
def test_a_damaged_archive_is_explained(
    obuilder: Command, damage: Callable[[bytes], bytes]
) -> None:
    archive = obuilder.directory / "busybox.tar"
    archive.write_bytes(damage(archive.read_bytes()))
    explained(obuilder.build(""), 1, "busybox.tar")
    assert os.listdir(obuilder.directory / "store" / "result-tmp") == []
    assert os.listdir(obuilder.directory / "store" / "result") == []


def test_an_archive_out_of_bounds_is_explained(obuilder: Command, busybox_archive: Path) -> None:
    spec = obuilder.directory / "spec"
    spec.write_text(f"((from archive:{busybox_archive}))")
    done = obuilder("build", "-f", str(spec), str(obuilder.source))
    explained(done, 1, busybox_archive.name, "archive.roots")
    roots = f'archive.roots=["{busybox_archive.parent}"]'
    done = obuilder("build", "-o", roots, "-f", str(spec), str(obuilder.source))
    assert done.returncode == 0, done.stderr


def test_delete_of_an_unknown_id_is_explained(obuilder: Command) -> None:
    explained(obuilder("delete", "0" * 64), 1, "0" * 64)
