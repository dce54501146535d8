"""The example of a hook plugin is told of a real build."""

from pathlib import Path

from support.command import Command

EXAMPLE = Path(__file__).parents[1] / "examples" / "hook-openmetrics"
METADATA = "Metadata-Version: 2.1\nName: obuilder-hook-openmetrics\nVersion: 0.1.0\n"


def install(site: Path) -> None:
    """As pip would: the module and its entry point, from the example's own pyproject."""
    info = site / "obuilder_hook_openmetrics-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(METADATA)
    (info / "entry_points.txt").write_text(
        "[obuilder.hooks]\nopenmetrics = obuilder_hook_openmetrics\n"
    )
    source = EXAMPLE / "src" / "obuilder_hook_openmetrics.py"
    (site / source.name).write_bytes(source.read_bytes())


def test_the_metrics_of_a_build_are_in_the_file(obuilder: Command) -> None:
    site, metrics = obuilder.directory / "site", obuilder.directory / "obuilder.prom"
    install(site)
    obuilder.env = {"OBUILDER_METRICS_FILE": str(metrics), "PYTHONPATH": str(site)}
    done = obuilder.build('(run (shell "true"))(run (shell "exit 3"))')
    assert done.returncode == 1, done.stderr
    lines = metrics.read_text().splitlines()
    assert lines[-1] == "# EOF"
    counts = {line for line in lines if "_count" in line}
    assert counts == {
        'obuilder_step_seconds_count{kind="from",outcome="built"} 1',
        'obuilder_step_seconds_count{kind="run",outcome="built"} 1',
        'obuilder_step_seconds_count{kind="run",outcome="failed"} 1',
    }
    metrics.unlink()
    obuilder.env = {**obuilder.env, "OBUILDER_DISABLE_PLUGINS": "openmetrics"}
    assert obuilder.build('(run (shell "true"))').returncode == 0
    assert not metrics.exists()


def test_the_example_names_its_entry_point_as_the_test_does() -> None:
    text = (EXAMPLE / "pyproject.toml").read_text()
    assert 'openmetrics = "obuilder_hook_openmetrics"' in text
