"""The canonical layout: nothing but blanks changes, and never twice."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.specs import stages

from obuilder.errors import SpecError
from obuilder.spec import Stage, format_spec, parse, pretty, stage_to_sexp, to_mach
from obuilder.spec.reader import tokens

SOURCE = b"""; a header

((build tools ((from debian) ; base
   (run (shell "make")) ; trailing
   ; own line


   (run (cache (a (target /x))) ; why
     (network host) (shell "a \\
                            b \\\\
              c \\
          d"))
   ; last
   ))
  ("from"  "debian:bookworm")
  #; (run (shell "switched  off"))
  (env A b) #| between |# (workdir
    /x)
  (copy (src a) (dst b)))
; end"""

FORMATTED = b"""; a header

((build tools
        ((from debian) ; base
         (run (shell "make")) ; trailing
         ; own line

         (run (cache (a (target /x))) ; why
              (network host)
              (shell "a \\
                      b \\\\
              c \\
    d"))
         ; last
         ))
 (from "debian:bookworm")
 #; (run (shell "switched  off"))
 (env A b) #| between |#
 (workdir /x)
 (copy (src a) (dst b))
)
; end
"""

BETWEEN = (
    " ",
    "\n",
    "\n \n\n",
    " ; note\n",
    " #| a\n b |#",
    ' #; (x "y") ',
    "\n;; own\n",
    " #;#; a b\n",
)


def test_layout_with_comments_and_continued_strings() -> None:
    assert format_spec(SOURCE) == FORMATTED


def test_lines_that_a_backslash_continues_move_with_their_string() -> None:
    text = b'((from b)\n     (run (shell "a \\\n             b \\\n\tc \\\n d")))'
    assert format_spec(text) == (b'((from b)\n (run (shell "a \\\n         b \\\n\tc \\\nd"))\n)\n')


@st.composite
def texts(draw: st.DrawFn) -> str:
    """A spec's text with blanks and comments between any two tokens."""
    stage = draw(stages())
    # The one for people has strings that go on in the next line.
    source = draw(st.sampled_from((to_mach(stage_to_sexp(stage)), pretty(stage))))
    pieces = [source[token.start : token.end] for token in tokens(source)]
    return "".join(draw(st.sampled_from(BETWEEN)) + piece for piece in pieces)


def comments(text: bytes) -> list[str]:
    source = text.decode()
    kept = [token for token in tokens(source) if token.kind in {"line", "block", "skip"}]
    return [source[token.start : token.end].rstrip() for token in kept]


@settings(deadline=None, max_examples=200)
@given(texts())
def test_any_text_keeps_its_meaning_and_comments_and_stays_as_it_is_then(text: str) -> None:
    source = text.encode()
    formatted = format_spec(source)
    assert parse(formatted) == parse(source)
    assert comments(formatted) == comments(source)
    assert format_spec(formatted) == formatted
    assert formatted.endswith(b"\n")


@settings(deadline=None)
@given(stages())
def test_canonical_text_is_formatted(stage: Stage) -> None:
    text = f"{stage}\n".encode()
    assert format_spec(text) == text
    assert parse(text) == stage
    # OBuilder's layout of an atom of several lines has a blank too many.
    assert str(stage) == pretty(stage) or b"\\\n" in text


def test_each_of_stacked_datum_comments_leaves_out_one() -> None:
    text = b"((from b)\n #;#;(env A   1)(env B 2)   (env C  3))"
    assert format_spec(text) == b"((from b)\n #;#;(env A   1)(env B 2)\n (env C 3)\n)\n"


def test_blanks_at_the_end_of_a_line_comment_go() -> None:
    text = b"; a \t\n((from b) ; c  \n ; d \n (env A 1))\n; e "
    assert format_spec(text) == b"; a\n((from b) ; c\n ; d\n (env A 1)\n)\n; e\n"


def test_bytes_that_are_not_utf8_are_kept() -> None:
    text = b'((from b)\n (run (shell "\xff")) ; \xfe\n)\n'
    assert format_spec(text) == text


def test_a_comment_that_ends_a_line_never_swallows_a_parenthesis() -> None:
    text = b"((from b)\n(run (shell x ;)\n))(copy (src ;a\n) (dst y)) ;b\n)"
    assert parse(format_spec(text)) == parse(text)


def test_what_does_not_parse_is_refused() -> None:
    with pytest.raises(SpecError) as caught:
        format_spec(b"((from b) (rnu x))", file="f")
    assert caught.value.where == "f:1:12"
