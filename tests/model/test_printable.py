"""Text of others never commands a terminal."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.model.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b31m", r"\x9b31m"),  # the same in one byte
        ("line\r\x1b[Kforged", r"line\r\x1b[Kforged"),
        ("one\ntwo\tthree", r"one\ntwo\tthree"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("a\u2028b", r"a\u2028b"),
        ("\ud800", r"\ud800"),
        ("hidden\U000e0041", r"hidden\U000e0041"),
        ("back\\slash and 'quotes'", "back\\slash and 'quotes'"),
        ("zoë 漢字 שלום 👩‍💻 e\u0301", "zoë 漢字 שלום 👩‍💻 e\u0301"),
        ("", ""),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_of_several_lines_the_ends_are_kept() -> None:
    assert printable("a\r\nb\tc\n\x1b[31md", lines=True) == "a\nb\tc\n\\x1b[31md"


@given(st.text(st.characters()), st.booleans())
def test_nothing_is_left_that_is_no_printing_character(text: str, lines: bool) -> None:
    shown = printable(text, lines=lines)
    kept = "\n\t" if lines else ""
    assert not [
        letter for letter in shown if unicodedata.category(letter) in ("Cc", "Cs") and letter not in kept
    ]
    assert not {unicodedata.bidirectional(letter) for letter in shown} & {
        *("LRE", "RLE", "LRO", "RLO", "PDF"),
        *("LRI", "RLI", "FSI", "PDI"),
    }
    assert printable(shown, lines=lines) == shown
    shown.encode()
