from scripts import draw_lifecycle


def test_the_drawn_lives_agree_with_the_code() -> None:
    assert draw_lifecycle.PAGE.read_text() == draw_lifecycle.page(), "run: python scripts/draw_lifecycle.py"
