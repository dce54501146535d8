"""Whole builds against what OBuilder 0.7 printed: ids, output, exit status."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from support.command import Command
from support.docker_engine import DockerEngine

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "ids.json").read_text()
)
# What the vectors' README allows to differ: kernel-dependent lines of `fast`, the standard
# error of `bad-network` (an OCaml exception there).
KERNEL_LINES = ("/ ", "/etc/hosts ", "/sys/fs/cgroup")
Outcome = tuple[int, str, str]


def make_tree(root: Path, tree: dict[str, Any]) -> None:
    root.mkdir()
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


def run_case(command: Command, case: dict[str, Any]) -> Outcome:
    home = command.directory / case["name"]
    make_tree(home, case["tree"])
    spec = command.directory / f"{case['name']}.spec"
    spec.write_text(case["spec"])
    secrets = []
    for name, value in case["secrets"].items():
        path = command.directory / f"{case['name']}.{name}.secret"
        path.write_text(value)
        secrets += ["--secret", f"{name}:{path}"]
    done = command("build", "-f", str(spec), *secrets, str(home))
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture(scope="module", params=["btrfs", "rsync"])
def outcomes(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    btrfs_file_system: Path,
    docker_engine: DockerEngine,
) -> dict[str, Outcome]:
    """All cases in their order on one store: later ones find what earlier ones made."""
    directory = tmp_path_factory.mktemp("golden")
    location = btrfs_file_system / "golden" if request.param == "btrfs" else directory / "store"
    location.mkdir(exist_ok=True)
    command = Command(
        directory, f"{request.param}:{location}", env={"DOCKER_HOST": docker_engine.host}
    )
    for base in ("busybox", "debian:bookworm"):
        docker_engine.ensure(base)
        spec = directory / "base.spec"
        spec.write_text(f"((from {base}))")
        imported = command("build", "-f", str(spec), str(directory))
        assert imported.returncode == 0, imported.stderr
    return {case["name"]: run_case(command, case) for case in CASES}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_build_prints_and_returns_what_obuilder_does(
    case: dict[str, Any], outcomes: dict[str, Outcome]
) -> None:
    status, stdout, stderr = outcomes[case["name"]]
    assert stdout_lines(case, stdout) == stdout_lines(case, case["stdout"])
    assert status == case["rc"]
    if case["name"] == "bad-network":
        assert len(stderr.splitlines()) <= 2  # the error and its hint
        assert 'Unsupported network configuration ["foo"]' in stderr
    else:
        assert stderr.rstrip("\n") == case["stderr"]  # the vectors lack the last newline


def stdout_lines(case: dict[str, Any], text: str) -> list[str]:
    lines = text.splitlines()
    if case["name"] == "fast":
        return [line for line in lines if not line.startswith(KERNEL_LINES)]
    return lines
