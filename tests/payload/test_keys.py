"""Keys are made once, read by their owner alone, and never weak."""

import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cook_jupyter.errors import Unverifiable
from cook_jupyter.payload.keys import make_key, read_key, read_or_make_key


def test_a_key_is_made_once_and_found_again(tmp_path: Path) -> None:
    made = read_or_make_key(tmp_path / "keys" / "ada")

    assert read_or_make_key(tmp_path / "keys" / "ada") == made
    assert (tmp_path / "keys" / "ada").stat().st_mode & 0o777 == 0o600


def test_many_who_make_it_at_once_end_with_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(read_or_make_key, [tmp_path / "ada"] * 32))

    assert len(keys) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ada"]


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    read_or_make_key(tmp_path / "ada")
    (tmp_path / "ada").chmod(0o644)

    with pytest.raises(Unverifiable, match="chmod 600"):
        read_key(tmp_path / "ada")


def test_without_a_key_there_is_a_word_and_no_trust(tmp_path: Path) -> None:
    with pytest.raises(Unverifiable, match="without a key are refused"):
        read_key(tmp_path / "nobody")


@pytest.mark.parametrize("text", ["", "not hex", "abcd"])
def test_a_broken_key_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ada").write_text(text)
    (tmp_path / "ada").chmod(0o600)

    with pytest.raises(Unverifiable):
        read_key(tmp_path / "ada")


def test_a_replaced_key_is_read_anew(tmp_path: Path) -> None:
    first = read_or_make_key(tmp_path / "ada")
    (tmp_path / "ada").unlink()

    assert read_or_make_key(tmp_path / "ada") != first


@given(st.binary(min_size=32, max_size=200), st.binary(max_size=500))
def test_signing_is_hmac_sha256(secret: bytes, content: bytes) -> None:
    assert make_key(secret).sign(content) == hmac.digest(secret, content, "sha256")


def test_the_same_secret_signs_the_same() -> None:
    assert make_key(b"k" * 32).sign(b"word") == make_key(b"k" * 32).sign(b"word")
    assert make_key(b"k" * 32).sign(b"word") != make_key(b"l" * 32).sign(b"word")
