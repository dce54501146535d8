"""Where settings come from, which source wins, and what is said about a bad one."""

import os
from pathlib import Path

import pytest

from obuilder._core.config import Settings
from obuilder.errors import ConfigError


class Machine:
    """A machine with its own configuration directories."""

    def __init__(self, root: Path) -> None:
        self.system = root / "etc" / "config.toml"
        self.user = root / "home" / "obuilder" / "config.toml"
        self.named = root / "named.toml"
        for path in (self.system, self.user):
            path.parent.mkdir(parents=True)
        self.environ = {"XDG_CONFIG_HOME": str(root / "home")}

    def load(self, *options: str, config: Path | None = None, **choices: str) -> Settings:
        return Settings.load(
            config_file=config,
            choices=choices,
            options=options,
            environ=self.environ,
            system_file=self.system,
        )

    def error(self, *options: str, config: Path | None = None, **choices: str) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.load(*options, config=config, **choices)
        return caught.value


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_nothing_configured_gives_the_packaged_defaults(machine: Machine) -> None:
    settings = machine.load()
    assert (settings.store, settings.sandbox, settings.fetcher) == ("rsync", "runc", "docker")
    assert settings.healthcheck.base == "busybox"
    assert settings.healthcheck.timeout_s == 30.0
    assert settings.source("store") == "defaults.toml"


def test_each_source_wins_over_the_one_before(machine: Machine) -> None:
    seen = []
    machine.system.write_text('store = "a:/system"')
    seen.append(machine.load())
    machine.user.write_text('store = "b:/user"')
    seen.append(machine.load())
    machine.named.write_text('store = "c:/named"')
    machine.environ["OBUILDER_CONFIG"] = str(machine.named)
    seen.append(machine.load())
    machine.environ["OBUILDER_STORE"] = "d:/env"
    seen.append(machine.load())
    seen.append(machine.load(store="e:/line"))
    assert [(settings.store, settings.location) for settings in seen] == [
        ("a", "/system"),
        ("b", "/user"),
        ("c", "/named"),
        ("d", "/env"),
        ("e", "/line"),
    ]
    assert [settings.source("store") for settings in seen] == [
        str(machine.system),
        str(machine.user),
        str(machine.named),
        "OBUILDER_STORE",
        "--store",
    ]


def test_config_on_the_command_line_replaces_the_one_of_the_environment(machine: Machine) -> None:
    machine.environ["OBUILDER_CONFIG"] = "/no/such/file"
    machine.named.write_text('sandbox = "x"')
    assert machine.load(config=machine.named).sandbox == "x"


def test_an_empty_environment_variable_is_not_set(machine: Machine) -> None:
    machine.environ["OBUILDER_SANDBOX"] = ""
    assert machine.load().sandbox == "runc"


def test_sections_of_several_sources_are_merged_key_by_key(machine: Machine) -> None:
    machine.system.write_text("[runc]\nfast-sync = true\nruntime = 'crun'")
    machine.user.write_text("[runc]\nfast_sync = false")
    section = machine.load().sections["runc"]
    assert (section["fast-sync"].value, section["fast-sync"].source) == (False, str(machine.user))
    assert section["runtime"].value == "crun"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("true", True),
        ("12", 12),
        ('["a", "b"]', ["a", "b"]),
        ("plain", "plain"),
        ("", ""),
        ("a=b", "a=b"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_option_values_are_toml_or_else_text(machine: Machine, written: str, value: object) -> None:
    assert machine.load(f"foo.bar_baz={written}").sections["foo"]["bar-baz"].value == value


def test_default_location_is_the_systems_for_root_else_the_users(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert machine.load().location == "/var/lib/obuilder"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine.environ["HOME"] = "/home/me"
    assert machine.load().location == "/home/me/.local/share/obuilder"
    machine.environ["XDG_DATA_HOME"] = "/data"
    assert machine.load().location == "/data/obuilder"
    assert machine.load(store="rsync:/elsewhere").location == "/elsewhere"


def test_platform_defaults_to_this_machines(machine: Machine) -> None:
    assert machine.load().platform.startswith("linux/")
    assert machine.load(platform="linux/arm/v7").platform == "linux/arm/v7"


def test_from_dict_takes_what_a_file_could_say_and_paths(tmp_path: Path) -> None:
    settings = Settings.from_dict({"store": "btrfs:/x", "archive": {"roots": (tmp_path,)}})
    assert settings.location == "/x"
    assert settings.sections["archive"]["roots"].value == [str(tmp_path)]


def test_toml_syntax_error_says_file_line_and_column(machine: Machine) -> None:
    machine.user.write_text('store = "a:/x"\n[runc]\nfast-sync = yes\n')
    error = machine.error()
    assert (error.code, error.where) == ("config.syntax", f"{machine.user}:3:13")


def test_toml_that_ends_too_early_is_reported_at_its_end(machine: Machine) -> None:
    machine.user.write_text('store = "a:/x"\nfoo =')
    error = machine.error()
    assert error.code == "config.syntax"
    assert str(error.where).startswith(f"{machine.user}:2:")


def test_bytes_that_are_not_utf8_are_reported_with_their_place(machine: Machine) -> None:
    machine.user.write_bytes(b"# ok\n# \xff\n")
    error = machine.error()
    assert (error.code, error.where) == ("config.syntax", f"{machine.user}:2:3")


def test_toml_nested_beyond_reason_is_a_syntax_error(machine: Machine) -> None:
    machine.user.write_text("x = " + "[" * 100_000)
    assert machine.error().code == "config.syntax"


def test_named_file_that_is_missing_is_an_error(machine: Machine, tmp_path: Path) -> None:
    error = machine.error(config=tmp_path / "none.toml")
    assert (error.code, error.where) == ("config.file-missing", "--config")
    machine.environ["OBUILDER_CONFIG"] = "/none.toml"
    assert machine.error().where == "OBUILDER_CONFIG"


def test_file_that_cannot_be_read_is_an_error(machine: Machine, tmp_path: Path) -> None:
    assert machine.error(config=tmp_path).code == "config.file-unreadable"


@pytest.mark.parametrize(
    ("text", "code", "hint"),
    [
        ('stor = "a"', "config.unknown-key", "did you mean 'store'?"),
        ("sandbox = 3", "config.type", None),
        ("store = ':/x'", "config.value", None),
        ("platform = 'amd64'", "config.value", "write OS/ARCH, such as linux/amd64"),
        ("[store]\nx = 1", "config.type", None),
        ("[healthcheck]\nbas = 'x'", "config.unknown-key", "did you mean 'base'?"),
        ("[healthcheck]\ntimeout-s = 'soon'", "config.type", None),
        ("[healthcheck]\ntimeout-s = -1", "config.value", None),
        ("[runc]\nfast-sync = 1\nfast_sync = 2", "config.duplicate-key", None),
    ],
)
def test_bad_setting_names_its_file_and_what_was_meant(
    machine: Machine, text: str, code: str, hint: str | None
) -> None:
    machine.user.write_text(text)
    error = machine.error()
    assert error.code == code
    assert str(error.where).startswith(str(machine.user))
    assert (error.hint or "").startswith(hint or "")


@pytest.mark.parametrize("text", ["x", "x=1", "x.=1", ".y=1", "store=rsync:/x", "runc.a"])
def test_option_without_section_key_and_value_is_refused(machine: Machine, text: str) -> None:
    assert machine.error(text).code == "config.option"


def test_hook_plugins_are_switched_off_by_file_or_environment(machine: Machine) -> None:
    machine.user.write_text('[plugins]\ndisable = ["a"]\n')
    assert machine.load().plugins.disable == ("a",)
    machine.environ["OBUILDER_DISABLE_PLUGINS"] = "b, c d"
    assert machine.load().plugins.disable == ("b", "c", "d")
    machine.user.write_text("[plugins]\ndisabel = []\n")
    assert "did you mean 'disable'?" in str(machine.error().hint)


def test_bad_environment_variable_is_named(machine: Machine) -> None:
    machine.environ["OBUILDER_PLATFORM"] = "??"
    assert machine.error().where == "OBUILDER_PLATFORM"
