from scripts import list_mesos_settings


def test_the_page_of_the_settings_of_mesos_agrees_with_the_code() -> None:
    assert list_mesos_settings.PAGE.read_text() == list_mesos_settings.page(), (
        "run: python scripts/list_mesos_settings.py"
    )
