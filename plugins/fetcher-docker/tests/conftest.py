"""Fixtures for the docker fetcher: a fetch, an engine for it, a stand-in for the CLI."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.docker_engine import DockerEngine, require_programs
from support.docker_fetch import Fetch


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    """A fetch with no engine: its `host` is to be set, or DOCKER_HOST."""
    for name in [name for name in os.environ if name.startswith("DOCKER_")]:
        monkeypatch.delenv(name)
    (tmp_path / "config").mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "config"))
    return Fetch(tmp_path, host=f"unix://{tmp_path}/no.sock")


@pytest.fixture
def engine(docker_engine: DockerEngine, fetch: Fetch) -> DockerEngine:
    """The session's engine, set in `fetch`, with busybox."""
    docker_engine.ensure("busybox")
    fetch.host = docker_engine.host
    return docker_engine


@pytest.fixture
def debian(engine: DockerEngine) -> str:
    """A larger image in `engine`. No test may make it: that takes an event loop of its own."""
    engine.ensure("debian:bookworm")
    return "debian:bookworm"


@pytest.fixture
def wrapper(tmp_path: Path) -> Callable[[str], str]:
    """Makes a CLI of a shell script, in which `"$docker"` is the real one."""

    def make(script: str) -> str:
        path = tmp_path / "docker-wrapper"
        path.write_text(f"#!/bin/sh\ndocker=docker\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture
def docker_client() -> None:
    """For tests with no engine: the docker CLI must be there."""
    require_programs("docker")
