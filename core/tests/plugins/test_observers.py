"""Hook plugins hear what happens, and harm nothing."""

import logging
from collections.abc import Callable

import pytest

from obuilder._core.drivers.plugins import Plugins
from obuilder.types import Id

Install = Callable[..., None]
ID = Id("a" * 64)


def install_hooks(install: Install, name: str, source: str) -> None:
    install(f"acme-{name}", {"obuilder.hooks": {name: name}}, {name: source})


def test_without_hook_plugins_there_is_no_observer() -> None:
    assert Plugins().hooks() is None


def test_hook_hears_only_the_arguments_it_asks_for(install: Install) -> None:
    install_hooks(
        install,
        "ears",
        """
        from obuilder import hookimpl
        heard = []
        @hookimpl
        def step_finished(cached, id):
            heard.append((id, cached))
        @hookimpl
        def build_started():
            heard.append("build")
        """,
    )
    hooks = Plugins().hooks()
    assert hooks is not None
    hooks.build_started()
    hooks.step_started(id=ID, kind="run")
    hooks.step_finished(id=ID, kind="run", cached=True, seconds=0.5, error=None)
    hooks.build_finished(seconds=1.0, error=None)
    import ears  # type: ignore[import-not-found]  # noqa: PLC0415 - made by this test

    assert ears.heard == ["build", (ID, True)]


@pytest.mark.parametrize("off", ["loud", "acme-loud", "Acme_Loud"])
def test_hook_plugin_that_is_switched_off_is_not_imported(install: Install, off: str) -> None:
    install_hooks(install, "loud", "raise SystemExit('imported')")
    assert Plugins().hooks([off]) is None


def test_hook_plugin_that_raises_at_import_stops_nothing(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install_hooks(install, "loud", "raise SystemExit('imported')")
    hooks = Plugins().hooks()
    assert hooks is not None
    hooks.build_started()
    assert "acme-loud" in caplog.text


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "BaseException"])
def test_hook_that_raises_is_logged_and_the_next_one_hears_all_the_same(
    install: Install, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    body = "from obuilder import hookimpl\nheard = []\n@hookimpl\ndef build_started():\n    "
    for name in ("bad_one", "good_one", "bad_two"):
        action = "heard.append(1)" if name == "good_one" else f"raise {kind}('ouch')"
        install_hooks(install, name, body + action)
    hooks = Plugins().hooks()
    assert hooks is not None
    with caplog.at_level(logging.WARNING):
        hooks.build_started()
    import good_one  # type: ignore[import-not-found]  # noqa: PLC0415 - made by this test

    assert good_one.heard == [1]
    assert caplog.text.count(f"{kind}: ouch") == 2
    assert "acme-bad_one" in caplog.text


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("raise ValueError('ouch')", "ValueError: ouch"),
        ("import no_such_module", "no_such_module"),
        (
            "from obuilder import hookimpl\n@hookimpl\ndef build_startet():\n    pass",
            "build_startet",
        ),
        (
            "from obuilder import hookimpl\n@hookimpl\ndef build_started(nothing):\n    pass",
            "nothing",
        ),
        (
            "from obuilder import hookimpl\n@hookimpl\nasync def build_started():\n    pass",
            "async def",
        ),
    ],
)
def test_hook_plugin_that_cannot_work_is_left_out_with_a_warning(
    install: Install, caplog: pytest.LogCaptureFixture, source: str, part: str
) -> None:
    install_hooks(install, "wrong", source)
    with caplog.at_level(logging.WARNING):
        hooks = Plugins().hooks()
        assert hooks is not None
        hooks.build_started()
    assert part in caplog.text
    assert "acme-wrong" in caplog.text
