"""Dockerfiles as people write them: each has its spec, or all the reasons why it has none."""

from pathlib import Path

import pytest

from obuilder.spec import parse, pretty
from obuilder.spec.from_dockerfile import DockerfileRefused, from_dockerfile

HERE = Path(__file__).parent / "dockerfiles"
NAMES = sorted(path.stem for path in HERE.glob("*.Dockerfile"))


def read(name: str, suffix: str) -> str:
    return (HERE / f"{name}.{suffix}").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in NAMES if (HERE / f"{name}.spec").exists()])
def test_dockerfile_has_its_spec(name: str) -> None:
    text = read(name, "Dockerfile").encode()
    stage = from_dockerfile(text, ignore_metadata=True).stage
    assert stage == parse(read(name, "spec").encode())
    assert f"{pretty(stage)}\n" == read(name, "spec")


@pytest.mark.parametrize("name", [name for name in NAMES if (HERE / f"{name}.refused").exists()])
def test_dockerfile_is_refused_for_all_its_reasons(name: str) -> None:
    with pytest.raises(DockerfileRefused) as caught:
        from_dockerfile(read(name, "Dockerfile").encode(), file="f", ignore_metadata=True)
    found = [f"{each.where}: {each.code}: {each.what}\n" for each in caught.value.refusals]
    assert "".join(found) == read(name, "refused")


def test_each_dockerfile_has_one_or_the_other() -> None:
    assert len(NAMES) == 30
    expected = sorted(path.stem for path in HERE.iterdir() if path.suffix in {".spec", ".refused"})
    assert expected == NAMES
