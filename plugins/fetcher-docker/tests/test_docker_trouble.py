"""What goes wrong around an engine: each ends as one error with its code and a hint."""

from collections.abc import Callable

import pytest
from support.docker_engine import DockerEngine, DockerRegistry, start_engine
from support.docker_fetch import Fetch

from obuilder.errors import FetchError
from obuilder_fetcher_docker.failures import failure

pytestmark = pytest.mark.anyio

Wrapper = Callable[[str], str]


async def refused(fetch: Fetch, base: str) -> FetchError:
    with pytest.raises(FetchError) as caught:
        await fetch(base)
    assert caught.value.hint
    return caught.value


async def test_no_such_image(
    engine: DockerEngine, docker_registry: DockerRegistry, fetch: Fetch
) -> None:
    base = f"{docker_registry.address}/no/such:tag"
    error = await refused(fetch, base)
    assert error.code == "docker.no-such-image"
    assert error.where == base


async def test_a_registry_that_is_not_there(engine: DockerEngine, fetch: Fetch) -> None:
    assert (await refused(fetch, "localhost:1/busybox")).code == "docker.registry"


@pytest.mark.usefixtures("docker_client")
@pytest.mark.parametrize("host", ["unix:///no/such.sock", "tcp://127.0.0.1:1"])
async def test_no_engine_shows_the_way_without_one(fetch: Fetch, host: str) -> None:
    fetch.host = host
    error = await refused(fetch, "busybox")
    assert error.code == "docker.no-engine"
    assert host in error.what
    assert "DOCKER_HOST" in str(error.hint)
    assert "(from archive:PATH)" in str(error.hint)


@pytest.mark.usefixtures("docker_client")
async def test_an_unknown_context_is_no_engine(
    fetch: Fetch, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.host = None
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such-context")
    error = await refused(fetch, "busybox")
    assert error.code == "docker.no-engine"
    assert "no-such-context" in error.what


async def test_no_cli_shows_what_to_install(fetch: Fetch) -> None:
    fetch.docker = "no-such-docker"
    error = await refused(fetch, "busybox")
    assert error.code == "docker.no-cli"
    assert "(from archive:PATH)" in str(error.hint)


async def test_a_cli_that_is_not_docker(fetch: Fetch) -> None:
    fetch.docker = "true"
    assert (await refused(fetch, "busybox")).code == "docker.failed"


async def test_no_permission_on_the_socket(
    engine: DockerEngine, fetch: Fetch, wrapper: Wrapper
) -> None:
    fetch.docker = wrapper(
        'exec setpriv --reuid=65534 --regid=65534 --clear-groups -- "$docker" "$@"'
    )
    assert (await refused(fetch, "busybox")).code == "docker.permission"


async def test_an_engine_with_no_space_left(
    engine: DockerEngine, docker_registry: DockerRegistry, *, fetch: Fetch, debian: str
) -> None:
    base = f"{docker_registry.address}/large"
    engine.docker("tag", debian, base)
    engine.docker("push", base)
    with start_engine(disk="24m") as small:
        fetch.host = small.host
        assert (await refused(fetch, base)).code == "docker.no-space"


async def test_an_export_that_breaks_off_is_the_engines_failure(
    engine: DockerEngine, fetch: Fetch, wrapper: Wrapper
) -> None:
    fetch.docker = wrapper(
        'if [ "$1" != export ]; then exec "$docker" "$@"; fi\n'
        '"$docker" "$@" | head --bytes=70000\n'
        "echo 'Error response from daemon: the disk is on fire' >&2; exit 1"
    )
    error = await refused(fetch, "busybox")
    assert error.code == "docker.failed"
    assert "the disk is on fire" in error.what
    assert engine.containers() == []


async def test_a_root_that_cannot_be_filled_is_the_unpackers_failure(
    engine: DockerEngine, fetch: Fetch, wrapper: Wrapper
) -> None:
    # An archive with garbage in front, and an export that would go on for ever.
    fetch.docker = wrapper('if [ "$1" = export ]; then exec yes; fi; exec "$docker" "$@"')
    error = await refused(fetch, "busybox")
    assert error.code.startswith("archive.")
    assert error.where == "busybox"
    assert engine.containers() == []


@pytest.mark.parametrize(
    "base",
    [
        "",
        "-",
        "--help",
        "-v/:/host",
        "--platform=linux/arm64",
        "busybox --help",
        "busybox\n",
        "busybox\0",
        "../busybox",
        "/busybox",
        "busybox:",
        "busybox:-x",
        "busybox@sha256:abc",
        "busybox@--help",
        "BusyBox",
        "http://localhost/busybox",
        "busybóx",
        "localhost:5000/-x",
        "archive:/root.tar",
        "a" * 100_000,
    ],
)
async def test_what_is_no_image_reference_never_reaches_the_cli(
    fetch: Fetch, wrapper: Wrapper, base: str
) -> None:
    called = fetch.directory / "called"
    fetch.docker = wrapper(f"touch '{called}'; exit 1")
    assert (await refused(fetch, base)).code == "docker.invalid-reference"
    assert not called.exists()


@pytest.mark.parametrize(
    ("said", "code"),
    [
        # Docker Hub's, for a missing image and for a private one.
        (
            "pull access denied for x, repository does not exist or may require 'login': denied: x",
            "docker.no-such-image",
        ),
        ("unauthorized: authentication required", "docker.login"),
        (
            "error getting credentials - err: exec: docker-credential-x: executable file not found",
            "docker.login",
        ),
        ("toomanyrequests: You have reached your pull rate limit.", "docker.rate-limit"),
        ("no matching manifest for linux/s390x in the manifest list entries", "docker.platform"),
        ("failed to connect to the docker API at unix:///var/run/docker.sock", "docker.no-engine"),
        ("client version 1.24 is too old. Minimum supported API version is", "docker.version"),
        (
            'Get "https://registry-1.docker.io/v2/": net/http: TLS handshake timeout',
            "docker.registry",
        ),
        ("manifest for timeout/unauthorized not found: manifest unknown", "docker.no-such-image"),
        ("", "docker.failed"),
    ],
)
async def test_the_words_of_docker_hub_and_other_releases_are_known(said: str, code: str) -> None:
    stderr = f"WARNING: permission denied: config.json\nError response from daemon: {said}\n"
    error = failure("pull", status=1, stderr=stderr.encode(), base="timeout/unauthorized")
    assert error.code == code
    assert "WARNING" not in error.what
    assert "Error response" not in error.what
