"""Images that an engine has or pulls: files, environment, digest, platform, progress, login."""

import filecmp
import json
import os
import shutil
from pathlib import Path

import pytest
from support.docker_engine import DockerEngine, DockerRegistry, start_registry
from support.docker_fetch import ABSENT_PLATFORM, PLATFORM, Fetch, foreign_image

from obuilder.errors import FetchError
from obuilder.process import run

pytestmark = pytest.mark.anyio

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Password `secret`; hashed with bcrypt, cost 5, the only kind that the registry takes.
HTPASSWD = "tester:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def clients() -> list[str]:
    """Every docker CLI that is installed: the engine's own, and a newer one before it on PATH."""
    found = (shutil.which("docker", path=place) for place in os.environ["PATH"].split(":"))
    return sorted({str(Path(path).resolve()) for path in found if path}) or ["docker"]


def pushed(engine: DockerEngine, registry: DockerRegistry, name: str) -> tuple[str, str]:
    """Busybox under a name in the registry and not in the engine; the name and its digest."""
    image = f"{registry.address}/{name}"
    engine.docker("tag", "busybox", image)
    engine.docker("push", image)
    (digest,) = [
        digest.partition("@")[2]
        for digest in inspect(engine, image)["RepoDigests"]
        if digest.startswith(image.rpartition(":")[0] + "@")
    ]
    engine.docker("rmi", image)
    return image, digest


def inspect(engine: DockerEngine, image: str) -> dict[str, list[str]]:
    (found,) = json.loads(engine.docker("image", "inspect", image))
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("client", clients())
async def test_a_local_image_is_taken_as_it_is(
    engine: DockerEngine, fetch: Fetch, client: str
) -> None:
    fetch.docker = client
    image = await fetch("busybox")
    assert image.env == (("PATH", PATH),)
    assert image.platform == PLATFORM
    assert image.digest == engine.docker("image", "inspect", "-f", "{{.Id}}", "busybox").strip()
    assert (fetch.rootfs / "bin/sh").readlink() == Path("/bin/busybox")
    assert filecmp.cmp(fetch.rootfs / "bin/busybox", "/bin/busybox", shallow=False)
    assert (fetch.rootfs / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert fetch.log.data == b""
    assert engine.containers() == []


@pytest.mark.parametrize("client", clients())
async def test_a_tag_is_pulled_with_its_progress_in_the_log(
    engine: DockerEngine, docker_registry: DockerRegistry, *, fetch: Fetch, client: str
) -> None:
    base, digest = pushed(engine, docker_registry, "group/tools:1.0")
    fetch.docker = client
    image = await fetch(base)
    assert image.digest == digest
    assert image.env == (("PATH", PATH),)
    assert image.platform == PLATFORM
    assert b"Pulling from group/tools" in fetch.log.data
    assert f"Digest: {digest}".encode() in fetch.log.data
    assert (fetch.rootfs / "bin/busybox").exists()
    engine.docker("rmi", base)


async def test_a_digest_is_pulled_and_then_local(
    engine: DockerEngine, docker_registry: DockerRegistry, *, fetch: Fetch, tmp_path: Path
) -> None:
    base, digest = pushed(engine, docker_registry, "pinned:1.0")
    pinned = f"{base.removesuffix(':1.0')}@{digest}"
    assert (await fetch(pinned)).digest == digest
    assert digest.encode() in fetch.log.data
    (tmp_path / "again").mkdir()
    again = Fetch(tmp_path / "again", host=engine.host)
    assert (await again(pinned)).digest == digest
    assert again.log.data == b""
    engine.docker("rmi", pinned)


async def test_the_engine_of_the_callers_environment_is_used(
    engine: DockerEngine, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.host = None
    monkeypatch.setenv("DOCKER_HOST", engine.host)
    await fetch("busybox")
    assert (fetch.rootfs / "bin/sh").is_symlink()


async def test_a_configured_engine_wins_over_the_callers_environment(
    engine: DockerEngine, fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///no.sock")
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such-context")
    await fetch("busybox")
    assert (fetch.rootfs / "bin/sh").is_symlink()


async def test_the_environment_keeps_its_order_and_odd_values(
    engine: DockerEngine, fetch: Fetch
) -> None:
    changes = ["ENV Z=1", "ENV A=b=c", "ENV EMPTY=", 'ENV SPACED="x  y"', "VOLUME /data"]
    options = [part for change in changes for part in ("--change", change)]
    engine.docker("import", *options, "-", "odd", stdin=b"\0" * 1024)
    image = await fetch("odd")
    assert image.env == (("Z", "1"), ("A", "b=c"), ("EMPTY", ""), ("SPACED", "x  y"))
    assert engine.docker("volume", "ls", "--quiet") == ""


async def test_a_local_image_of_another_platform_is_refused(
    engine: DockerEngine, docker_registry: DockerRegistry, fetch: Fetch
) -> None:
    base = f"{docker_registry.address}/foreign-local:1"
    engine.docker("load", stdin=foreign_image(base))
    with pytest.raises(FetchError) as caught:
        await fetch(base)
    assert caught.value.code == "docker.platform"
    assert ABSENT_PLATFORM in caught.value.what
    assert PLATFORM in caught.value.what
    engine.docker("rmi", base)


async def test_a_pulled_image_of_another_platform_is_refused(
    engine: DockerEngine, docker_registry: DockerRegistry, fetch: Fetch
) -> None:
    base = f"{docker_registry.address}/foreign:1"
    engine.docker("load", stdin=foreign_image(base))
    engine.docker("push", base)
    engine.docker("rmi", base)
    with pytest.raises(FetchError) as caught:
        await fetch(base)
    assert caught.value.code == "docker.platform"
    assert engine.containers() == []


async def test_a_private_image_needs_the_operators_login(
    engine: DockerEngine, fetch: Fetch, tmp_path: Path
) -> None:
    with start_registry(htpasswd=HTPASSWD) as registry:
        login = ("login", "--username", "tester", "--password-stdin", registry.address)
        engine.docker(*login, stdin=b"secret")
        base, digest = pushed(engine, registry, "private:1")
        with pytest.raises(FetchError) as caught:
            await fetch(base)
        assert caught.value.code == "docker.login"
        assert "docker login" in (caught.value.hint or "")

        # `fetch` has given the caller a DOCKER_CONFIG of its own.
        await run(["docker", *login], stdin=b"secret", env={"DOCKER_CONFIG": f"{tmp_path}/config"})
        (tmp_path / "again").mkdir()
        image = await Fetch(tmp_path / "again", host=engine.host)(base)
        assert image.digest == digest
        engine.docker("rmi", base)
