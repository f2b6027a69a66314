"""A part that this machine lacks is skipped at home and refused in CI."""

import pytest

from tests.conftest import missing_part


def test_a_missing_part_is_skipped_on_a_developers_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)

    with pytest.raises(pytest.skip.Exception, match="no browser"):
        missing_part("no browser")


def test_a_missing_part_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")

    with pytest.raises(pytest.fail.Exception, match="missing in CI: no browser"):
        missing_part("no browser")
