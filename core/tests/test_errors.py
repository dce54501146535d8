"""Errors survive a trip to another process."""

import pickle

import pytest

from obuilder.errors import CommandFailed, ConfigError, ObuilderError, ProcessError


@pytest.mark.parametrize(
    "error",
    [
        CommandFailed(("sh", "-c", "exit 3"), 3, hint="try again"),
        ConfigError("wrong", where="here", hint="so", code="config.value"),
        ProcessError("gone", returncode=-9, stderr=b"why", code="process.failed"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_after_a_trip(error: ObuilderError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
