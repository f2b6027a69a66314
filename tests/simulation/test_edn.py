"""Valid EDN is parsed, and invalid EDN is refused with line and column."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import InvalidRequest
from cook_jupyter.simulation.edn import Keyword, Symbol, Value, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("nil", None),
        ("true", True),
        ("-12", -12),
        ("+7N", 7),
        ("0.95", 0.95),
        ("1e3", 1000.0),
        ("2.5M", 2.5),
        ('"a \\"b\\" \\u00e9\\n"', 'a "b" é\n'),
        (":fenzo/config", ":fenzo/config"),
        ("\\a", "a"),
        ("\\newline", "\n"),
        ("[1, 2 ,3]", [1, 2, 3]),
        ("(1 [])", [1, []]),
        ("#{1 2}", frozenset({1, 2})),
        ("{:a {:b nil}}", {":a": {":b": None}}),
        ("; first\n{ ; inside\n :a 1 #_ :b #_2}", {":a": 1}),
        ("#_ #_ 1 2 3", 3),
        ("[1 true]", [1, True]),
    ],
)
def test_each_kind_of_value_is_read(text: str, value: object) -> None:
    assert read(text) == value


def test_a_keyword_differs_from_a_string() -> None:
    value = read('[:a ":a"]')

    assert isinstance(value, list)
    assert [isinstance(item, Keyword) for item in value] == [True, False]


@pytest.mark.parametrize("symbol", ["fitness", "a.b/c-d", "-", "+x", ".y", "nilly", "trues", "<=", "a'b#"])
def test_a_symbol_is_read_as_its_name(symbol: str) -> None:
    value = read(f"[{symbol}]")

    assert value == [symbol]
    assert isinstance(value, list)
    assert isinstance(value[0], Symbol)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "line 1, column 1: there is no value"),
        ("; only a comment\n", "line 2, column 1: there is no value"),
        ("{:a 1\n :b}", "line 1, column 1: a key of this map has no value"),
        ("{:a\n  [1 2", r"line 2, column 3: '\[' is never closed"),
        ("[1 2}", r"line 1, column 5: expected '\]'"),
        ("{:a 1 :a 2}", "line 1, column 7: duplicate :a"),
        ("#{1 1}", "line 1, column 5: duplicate 1"),
        ('{:a #inst "2020"}', "line 1, column 5: tagged values"),
        ("{:a hell@}", "line 1, column 5: 'hell@' is not a keyword"),
        ("-1x", "line 1, column 1: '-1x' is not a keyword"),
        ("1 2", "line 1, column 3: there is a second value"),
        ("1 ]", r"line 1, column 3: unmatched '\]'"),
        ('"abc', "line 1, column 1: this string is never closed"),
        ('"a\\q"', r"line 1, column 3: \\q is not an escape"),
        ("[#_]", "line 1, column 2: #_ is not followed"),
        ("{[1] 2}", "line 1, column 2: a collection cannot be a key"),
        ("007", "line 1, column 1: '007'"),
        ("1/2", "line 1, column 1: '1/2'"),
        ("[" * 1000, "line 1, column 201: more than 200"),
    ],
)
def test_invalid_edn_is_refused_with_line_and_column(text: str, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        read(text)


names = st.from_regex(r"[a-z][a-z0-9-]{0,8}", fullmatch=True)
atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    names.map(lambda name: Keyword(f":{name}")),
    st.text(st.characters(codec="utf-8")),
)
values = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(names.map(lambda name: Keyword(f":{name}")), inner, max_size=4)
    ),
    max_leaves=12,
)


def encode(value: Value) -> str:
    """Return a value in EDN, with some commas."""
    match value:
        case None:
            return "nil"
        case bool():
            return str(value).lower()
        case Keyword():
            return str(value)
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case list():
            return "[" + " ".join(map(encode, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{encode(k)} {encode(v)}" for k, v in value.items()) + "}"
        case _:
            return repr(value)


@given(values)
def test_a_written_value_can_be_read_back(value: Value) -> None:
    assert read(f" ;\n{encode(value)},") == value
