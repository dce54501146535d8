"""The command line: what it takes, what it prints, and its exit status."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from obuilder._cli.app import app

Install = Callable[..., None]
pytestmark = pytest.mark.usefixtures("fakes")


class Shop:
    """A directory with a spec and sources, and a command line on the fake backends."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec = root / "spec"
        self.source = root / "src"
        self.source.mkdir()
        self.globals = [f"--store=fakestore:{root}/store", "--sandbox=fakebox"]
        self.globals += ["--fetcher=fakefetch"]
        self.write("hello")

    def write(self, *commands: str) -> None:
        runs = " ".join(f'(run (shell "{command}"))' for command in commands)
        self.spec.write_text(f"((from busybox) (shell sh) {runs})")

    def run(self, *argv: str, stdin: bytes | None = None) -> Result:
        return CliRunner().invoke(app, list(argv), input=stdin)

    def build(self, *more: str, stdin: bytes | None = None) -> Result:
        return self.run(
            *self.globals, "build", "-f", str(self.spec), *more, str(self.source), stdin=stdin
        )


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for key in ("STORE", "SANDBOX", "FETCHER", "PLATFORM", "CONFIG", "TRACEBACK"):
        monkeypatch.delenv(f"OBUILDER_{key}", raising=False)
    return Shop(tmp_path)


def built_id(result: Result) -> str:
    return result.stdout.splitlines()[-1].removeprefix('Got: "').removesuffix('"')


def test_build_prints_its_log_and_the_second_one_comes_from_the_cache(shop: Shop) -> None:
    first, second = shop.build(), shop.build()
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.stderr == ""
    assert '/: (run (shell hello))\nhello\n---> saved as "' in first.stdout
    assert '/: (run (shell hello))\nhello\n---> using "' in second.stdout
    assert built_id(first) == built_id(second)


def test_global_options_stand_before_or_after_and_the_ones_after_win(shop: Shop) -> None:
    argv = ["build", "-f", str(shop.spec), str(shop.source)]
    assert shop.run(*argv, *shop.globals).exit_code == 0
    wrong = ["--store=none:/x", "--sandbox=none", "--fetcher=none"]
    assert shop.run(*wrong, *argv, *shop.globals).exit_code == 0
    refused = shop.run(*shop.globals, *argv, "--sandbox=none")
    assert refused.exit_code == 2
    assert "sandbox 'none' is not installed" in refused.stderr


def test_options_before_and_after_add_up(shop: Shop) -> None:
    argv = ["build", "-f", str(shop.spec), str(shop.source)]
    before = ["-o", "fakebox.prefix=early ", "-o", "fakestore.mode=link"]
    result = shop.run(*shop.globals, *before, *argv, "-o", "fakebox.prefix=late ")
    assert "late hello\n" in result.stdout


def test_config_file_can_be_named(shop: Shop) -> None:
    config = shop.root / "my.toml"
    config.write_text('[fakebox]\nprefix = "from file "')
    assert "from file hello\n" in shop.build("--config", str(config)).stdout


def test_spec_is_read_from_standard_input(shop: Shop) -> None:
    argv = [*shop.globals, "build", "-f", "-", str(shop.source)]
    result = shop.run(*argv, stdin=b'((from busybox) (shell sh) (run (shell "caf\xe9")))')
    assert result.exit_code == 0
    assert b"caf\xe9\n" in result.stdout_bytes


def test_id_file_gets_the_final_id_and_keeps_no_old_one(shop: Shop) -> None:
    file = shop.root / "id"
    result = shop.build("--id-file", str(file))
    assert file.read_text() == f"{built_id(result)}\n"
    shop.write("exit 1")
    assert shop.build("--id-file", str(file)).exit_code == 1
    assert not file.exists()


def test_id_file_behind_a_link_keeps_no_old_id(shop: Shop) -> None:
    file = shop.root / "id"
    file.write_text("old")
    link = shop.root / "link"
    link.symlink_to(file)
    shop.write("exit 1")
    assert shop.build("--id-file", str(link)).exit_code == 1
    assert not file.exists()
    shop.write("hello")
    result = shop.build("--id-file", str(link))
    assert file.read_text() == f"{built_id(result)}\n"


def test_image_for_another_platform_is_refused_and_not_saved(shop: Shop, install: Install) -> None:
    source = """
    from fakes import FakeFetcher
    from obuilder.types import BaseImage
    class Fetch(FakeFetcher):
        API = 1
        Config = FakeFetcher.Config
        async def fetch(self, base, rootfs, *, log, scratch, context):
            return BaseImage(platform="linux/s390x")
    """
    install("acme-big", {"obuilder.fetchers": {"big": "big:Fetch"}}, {"big": source})
    result = shop.build("--fetcher=big", "--platform=linux/amd64")
    assert result.exit_code == 1
    assert "is for linux/s390x, wanted is linux/amd64" in result.stderr
    assert list((shop.root / "store" / "result").iterdir()) == []


def test_control_characters_of_a_spec_reach_no_terminal(shop: Shop) -> None:
    shop.spec.write_bytes(b'((from b)\n (run (secrets ("a\\027[2J" (target /x))) (shell x)))')
    result = shop.build()
    assert result.exit_code == 1
    assert "'a\\x1b[2J'" in result.stderr


def test_failed_step_ends_with_status_1_and_obuilders_words(shop: Shop) -> None:
    shop.write("exit 3")
    result = shop.build()
    assert result.exit_code == 1
    assert result.stderr == 'Build step failed: "sh" "exit 3" failed with exit status 3\n'
    assert "Got:" not in result.stdout


def test_bug_is_one_line_without_a_traceback(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.write("crash")
    result = shop.build()
    assert result.exit_code == 3
    assert "obuilder: internal error: ZeroDivisionError: a bug" in result.stderr
    assert "this is a bug" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Traceback" in shop.build("-v").stderr
    monkeypatch.setenv("OBUILDER_TRACEBACK", "1")
    assert "Traceback" in shop.build().stderr


def test_bad_spec_is_told_with_its_place(shop: Shop) -> None:
    shop.spec.write_text("((from busybox)\n (rum (shell x)))")
    result = shop.build()
    assert result.exit_code == 2
    assert f"{shop.spec}:2:" in result.stderr
    assert "run" in result.stderr


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["-f", "{root}/none", "{root}/src"], "there is no file {root}/none"),
        (["-f", "{root}", "{root}/src"], "cannot read {root}"),
        (["-f", "{root}/spec", "{root}/none"], "source directory {root}/none: No such file"),
        (["-f", "{root}/spec", "{root}/spec"], "{root}/spec is not a directory"),
        (["-f", "{root}/spec"], "Missing argument"),
        (["{root}/src"], "Missing option"),
        (["-f", "{root}/spec", "{root}/src", "--nonsense"], "No such option"),
        (["-f", "{root}/spec", "{root}/src", "--secret", "id"], "expected ID:FILE, found 'id'"),
        (
            ["-f", "{root}/spec", "{root}/src", "--secret", "id:{root}/none"],
            "--secret id: there is no file {root}/none",
        ),
        (
            ["-f", "{root}/spec", "{root}/src"] + ["--secret", "a:{root}/spec"] * 2,
            "secret 'a' is given twice",
        ),
        (["-f", "{root}/spec", "{root}/src", "--id-file", "{root}/no/id"], "no directory"),
        (["-f", "{root}/spec", ""], "SOURCE_DIR: found an empty path"),
        (["-f", "", "{root}/src"], "-f: found an empty path"),
        (["-f", "{root}/spec", "{root}/src", "--config", ""], "--config: found an empty path"),
        (["-f", "{root}/spec", "{root}/src", "--id-file", ""], "--id-file: found an empty path"),
        (["-f", "{root}/spec", "{root}/src", "--id-file", "{root}/spec"], "is read by this build"),
        (["-f", "{root}/spec", "{root}/src", "--store=/x"], "write DRIVER:/x"),
        (["-f", "{root}/spec", "{root}/src", "--store="], "write DRIVER:/PATH"),
        (["-f", "{root}/spec", "{root}/src", "--fetcher=fakefech"], "'fakefetch'"),
        (["-f", "{root}/spec", "{root}/src", "-o", 'fakebox.prefix="a\\u0000"'], "a zero byte"),
        (["-f", "{root}/spec", "{root}/src", "--config", "{root}/none"], "there is no file"),
        (["-f", "{root}/spec", "{root}/src", "-o", "x"], "expected section.option=value"),
        (["-f", "{root}/spec", "{root}/src", "-o", "fakebax.a=1"], "[fakebox]"),
        (["-f", "{root}/spec", "{root}/src", "--store=fakestor:/x"], "'fakestore'"),
        (["-f", "{root}/spec", "{root}/src", "--platform=amd"], "write OS/ARCH"),
    ],
)
def test_wrong_use_is_status_2_and_one_short_message(
    shop: Shop, argv: list[str], part: str
) -> None:
    filled = [word.replace("{root}", str(shop.root)) for word in argv]
    result = shop.run(*shop.globals, "build", *filled)
    assert result.exit_code == 2
    assert part.replace("{root}", str(shop.root)) in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.splitlines()) <= 5
    assert not (shop.root / "store").exists()


def test_wrong_configuration_file_is_status_2_with_line_and_column(shop: Shop) -> None:
    config = shop.root / "config" / "obuilder" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("[fakebox\n")
    result = shop.build()
    assert result.exit_code == 2
    assert f"{config}:1:" in result.stderr


def test_secret_reaches_the_build_without_being_shown(shop: Shop) -> None:
    value = shop.root / "value"
    value.write_bytes(b"s3cr3t")
    shop.spec.write_text("((from busybox) (shell sh) (run (secrets (a (target /a))) (shell hi)))")
    without = shop.build()
    assert without.exit_code == 1
    assert "'a'" in without.stderr
    result = shop.build("--secret", f"a:{value}", "-v")
    assert result.exit_code == 0
    assert "s3cr3t" not in result.output


def test_healthcheck_passes(shop: Shop) -> None:
    result = shop.run(*shop.globals, "healthcheck")
    assert (result.exit_code, result.stdout) == (0, "Healthcheck passed\n")


def test_delete_prints_what_goes_and_how_many(shop: Shop) -> None:
    id = built_id(shop.build())
    result = shop.run(*shop.globals, "delete", id)
    assert (result.exit_code, result.stdout) == (0, f"Removing {id}\nRemoved 1 item\n")
    again = shop.run(*shop.globals, "delete", id)
    assert again.exit_code == 1
    assert id in again.stderr


@pytest.mark.parametrize("id", ["../..", "", "A" * 64, "a" * 63])
def test_delete_takes_only_an_id(shop: Shop, id: str) -> None:
    result = shop.run(*shop.globals, "delete", id)
    assert result.exit_code == 2
    assert not (shop.root / "store").exists()


def test_clean_leaves_no_result(shop: Shop) -> None:
    shop.build()
    result = shop.run(*shop.globals, "clean")
    assert result.exit_code == 0
    assert result.stdout.endswith("Removed 2 items\n")
    assert list((shop.root / "store" / "result").iterdir()) == []


def test_prune_removes_what_was_used_before_a_time(shop: Shop) -> None:
    shop.build()
    assert shop.run(*shop.globals, "prune", "--before=1d").stdout == "Removed 0 items\n"
    future = shop.run(*shop.globals, "prune", "--before=2999-01-01", "--limit=1")
    assert future.stdout.endswith("Removed 1 item\n")
    wrong = shop.run(*shop.globals, "prune", "--before=soon")
    assert wrong.exit_code == 2
    assert "neither an age nor a date" in wrong.stderr


def test_backends_shows_each_driver_and_what_is_wrong(shop: Shop, install: Install) -> None:
    install(
        "acme-bad", {"obuilder.stores": {"bad": "bad_module:X"}}, {"bad_module": "import gone_x"}
    )
    result = shop.run("backends")
    assert result.exit_code == 0
    rows = [line.split(maxsplit=4) for line in result.stdout.splitlines()]
    assert rows[0] == ["KIND", "DRIVER", "DISTRIBUTION", "VERSION", "STATE"]
    assert ["store", "fakestore", "obuilder-fakes", "1.0", "ok"] in rows
    bad = next(row for row in rows if row[1] == "bad")
    assert "'gone_x', which is not installed" in bad[4]


@pytest.mark.parametrize("argv", [["--version"], ["-v", "--version"]])
def test_version_is_printed(shop: Shop, argv: list[str]) -> None:
    result = shop.run(*argv)
    assert result.exit_code == 0
    assert result.stdout.startswith("obuilder 0.")


def test_no_command_shows_the_help(shop: Shop) -> None:
    result = shop.run()
    assert "build" in result.output
    assert sys.exc_info() == (None, None, None)
