"""What all contracts ask of the class itself, as the loader of backends does."""

import dataclasses
import typing

from obuilder.interfaces import API_VERSION

__all__ = ["check_form"]


def check_form(backend: type) -> None:
    """Fail unless the class body says `API` and `Config`, and the core can fill that."""
    api, config = vars(backend).get("API"), vars(backend).get("Config")
    where = f"the class body of {backend.__name__}"
    assert type(api) is int, f"{where} needs API = {API_VERSION}, and says {api!r}"
    assert 1 <= api <= API_VERSION, f"{where} says an interface that there is not: {api}"
    assert isinstance(config, type), f"{where} needs Config, a frozen dataclass"
    assert dataclasses.is_dataclass(config), f"{where}: Config is no dataclass"
    assert config.__dataclass_params__.frozen, f"{where}: Config is not frozen"  # type: ignore[attr-defined]  # not in typeshed
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        defaults = {field.default, field.default_factory}
        assert field.name in hints
        assert defaults != {dataclasses.MISSING}, f"{where}: {field.name} has no default"
