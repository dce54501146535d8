"""The `config.json` of each golden case means what OBuilder's means."""

import json
from pathlib import Path
from typing import Any

import pytest

from obuilder.errors import BuildError
from obuilder.types import Id, Mount, RunConfig, Secret, User
from obuilder_sandbox_runc.oci import MAX_ID, Places, check, config_json

GOLDEN = Path(__file__).resolve().parents[3] / "tests/golden/runc_config.json"
CASES = {case["name"]: case for case in json.loads(GOLDEN.read_text())["cases"]}

BUSYBOX_ENV = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),)
GOLDEN_ENV = (
    ("X", "y z"),
    *BUSYBOX_ENV,
    ("A", "1"),
    ("B", "two words"),
    ("EMPTY", ""),
    ("EQ", "x=y=z"),
    ("Q", 'a"b\\\\c'),
    ("U", "é"),
    ("HOME", "/root"),
)


def step(*argv: str, **fields: Any) -> RunConfig:
    return RunConfig(**{"id": Id("0" * 64), "argv": argv, "env": BUSYBOX_ENV, **fields})


def shell(command: str, **fields: Any) -> RunConfig:
    return step("/bin/sh", "-c", command, **fields)


CONFIGS = {
    "minimal run": shell("true"),
    "fast-sync": shell("true # fs"),
    "network host": shell("true", network=("host",)),
    "everything": shell(
        'true "q" é',
        cwd="/w/é",
        user=User(uid=1000, gid=1001),
        env=GOLDEN_ENV,
        network=("host",),
        mounts=(
            Mount(source=Path("/store/cache-tmp/0-c-c1"), target="/c1"),
            Mount(source=Path("/store/cache-tmp/1-c-c%202%2f%25%c3%a9"), target="/c2"),
        ),
        secrets=(Secret(target="/run/s2", value=b"two"), Secret(target="/run/s1", value=b"one")),
    ),
    "copy": step("tar", "-xf", "-", env=(("PATH", "/bin:/usr/bin"),)),
    "cwd relative kept": shell("true", cwd="C:/x"),
    "latin1 command": shell("true \udce9\udcff"),
}


def ours(config: RunConfig, rootfs: Path, **options: Any) -> Any:
    check(config)
    places = Places(
        rootfs=rootfs,
        hosts=Path("/config/hosts"),
        resolv_conf=Path("/etc/resolv.conf"),
        secrets=[Path(f"/config/secret-{number}") for number in range(len(config.secrets))],
    )
    return json.loads(
        config_json(config, places, **{"fast_sync": False, "machine": "x86_64", **options})
    )


@pytest.mark.parametrize("name", sorted(set(CASES) - {"latin1 command"}))
def test_config_json_means_what_obuilders_means(name: str) -> None:
    case = CASES[name]
    [recorded] = case["configs"]
    text = recorded["text"].replace("@STORE@", "/store").replace("@CONFIG_DIR@", "/config")
    theirs = json.loads(text)
    built = ours(
        CONFIGS[name], Path(theirs["root"]["path"]), fast_sync="--fast-sync" in case["args"]
    )
    assert built == theirs


def test_every_golden_case_is_known() -> None:
    assert set(CASES) == set(CONFIGS)


def test_text_that_is_not_utf8_is_refused_by_what_it_is() -> None:
    for config, named in (
        (CONFIGS["latin1 command"], "command"),
        (shell("true", cwd="/\udce9"), "working directory"),
        (shell("true", env=(("A", "\udce9"),)), "variable A"),
        (shell("true", secrets=(Secret(target="/\udce9", value=b"hidden"),)), "secret"),
        (shell("true", mounts=(Mount(source=Path("/x"), target="/\udce9"),)), "mount"),
    ):
        with pytest.raises(BuildError, match=named) as caught:
            check(config)
        assert caught.value.code == "sandbox.not-utf8"
        str(caught.value).encode()
        assert "hidden" not in str(caught.value)


def test_a_store_path_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(BuildError) as caught:
        ours(shell("true"), Path("/\udce9/rootfs"))
    assert caught.value.code == "sandbox.not-utf8"


@pytest.mark.parametrize("network", [("foo",), ("host", "host"), ("host", 'a"b'), ("none",)])
def test_any_network_but_host_is_refused_in_one_line(network: tuple[str, ...]) -> None:
    with pytest.raises(BuildError) as caught:
        check(shell("true", network=network))
    assert caught.value.code == "sandbox.network"
    assert caught.value.what.startswith("Unsupported network configuration [")
    assert "\n" not in caught.value.what


def test_the_message_for_a_bad_network_is_obuilders() -> None:
    with pytest.raises(BuildError) as caught:
        check(shell("true", network=("foo",)))
    assert caught.value.what == 'Unsupported network configuration ["foo"]'


@pytest.mark.parametrize("number", [-1, MAX_ID + 1, 2**32, 2**64])
def test_ids_that_the_kernel_does_not_have_are_refused(number: int) -> None:
    for user in (User(uid=number, gid=0), User(uid=0, gid=number)):
        with pytest.raises(BuildError, match=str(number)) as caught:
            check(shell("true", user=user))
        assert caught.value.code == "sandbox.user"


def test_the_largest_ids_are_accepted() -> None:
    check(shell("true", user=User(uid=MAX_ID, gid=MAX_ID)))


def test_a_host_without_resolv_conf_has_none_mounted() -> None:
    config = shell("true", network=("host",))
    places = Places(rootfs=Path("/r"), hosts=Path("/h"), resolv_conf=None)
    built = json.loads(config_json(config, places, fast_sync=False, machine="x86_64"))
    assert "/etc/resolv.conf" not in [mount["destination"] for mount in built["mounts"]]


def test_the_filter_names_the_machines_instruction_sets() -> None:
    def architectures(machine: str) -> Any:
        built = ours(shell("true"), Path("/r"), machine=machine)
        return built["linux"]["seccomp"]["architectures"]

    assert architectures("aarch64") == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
    assert architectures("x86_64") == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]
    assert architectures("unheard-of") == []


def test_a_read_only_mount_says_so() -> None:
    mount = Mount(source=Path("/x"), target="/y", readonly=True)
    built = ours(shell("true", mounts=(mount,)), Path("/r"))
    assert built["mounts"][-1]["options"] == ["bind", "nosuid", "nodev", "ro"]
