"""Coverage-guided fuzzing of the spec language, by hand: `make fuzz SECONDS=300`.

Any bytes are read or refused with a SpecError; what is read prints, formats and
reads back as the same stage. libFuzzer's options are taken as they are.
"""

import sys

import atheris

with atheris.instrument_imports(include=["obuilder"]):
    from obuilder.errors import SpecError
    from obuilder.spec import (
        check,
        format_spec,
        parse,
        parse_sexps,
        pretty,
        stage_to_sexp,
        to_hum,
        to_mach,
    )

__all__ = ["one_input"]


def one_input(data: bytes) -> None:
    """What must hold for any bytes."""
    try:
        for node in parse_sexps(data):
            sexp = node.sexp()
            for text in (to_mach(sexp), to_hum(sexp)):
                assert [read.sexp() for read in parse_sexps(text.encode())] == [sexp]
        stage = parse(data)
    except SpecError:
        assert check(data)
        return
    for text in (to_mach(stage_to_sexp(stage)), pretty(stage)):
        assert parse(text.encode()) == stage
    formatted = format_spec(data)
    assert parse(formatted) == stage
    assert format_spec(formatted) == formatted


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
