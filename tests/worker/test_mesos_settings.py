"""What the environment of an executor says, and what follows for its lease."""

import pytest

from cook_jupyter.worker.mesos.lease import Lease
from cook_jupyter.worker.mesos.settings import MesosSettings, seconds

ENVIRONMENT = {
    "MESOS_AGENT_ENDPOINT": "10.0.0.7:5051",
    "MESOS_FRAMEWORK_ID": "f",
    "MESOS_EXECUTOR_ID": "e",
    "MESOS_SANDBOX": "/sandbox",
}


@pytest.mark.parametrize(
    ("text", "value"),
    [("15mins", 900), ("2secs", 2), ("1.5hrs", 5400), ("500ms", 0.5), ("1weeks", 604800), ("100ns", 1e-7)],
)
def test_durations_of_mesos_are_seconds(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "15", "mins", "1 mins", "-1secs", "1.2.3secs", "1parsecs"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is for the log of a host
        seconds(text)


def test_an_agent_that_says_little_gets_the_defaults_of_mesos() -> None:
    settings = MesosSettings.read(ENVIRONMENT)

    assert (settings.host, settings.port, settings.sandbox) == ("10.0.0.7", 5051, "/sandbox")
    assert (settings.recovery_timeout_s, settings.backoff_max_s, settings.shutdown_grace_s) == (900, 2, 5)
    assert settings.checkpoint
    assert settings.token is None


def test_an_agent_decides() -> None:
    settings = MesosSettings.read(
        {
            **ENVIRONMENT,
            "MESOS_AGENT_ENDPOINT": "[::1]:5051",
            "MESOS_CHECKPOINT": "0",
            "MESOS_RECOVERY_TIMEOUT": "10secs",
            "MESOS_SUBSCRIPTION_BACKOFF_MAX": "1secs",
            "MESOS_EXECUTOR_SHUTDOWN_GRACE_PERIOD": "30secs",
            "MESOS_EXECUTOR_AUTHENTICATION_TOKEN": "t",
        }
    )

    assert (settings.host, settings.checkpoint, settings.recovery_timeout_s) == ("::1", False, 10)
    assert (settings.backoff_max_s, settings.shutdown_grace_s, settings.token) == (1, 30, "t")


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_what_every_agent_says_is_required(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is not set"):
        MesosSettings.read({key: value for key, value in ENVIRONMENT.items() if key != name})


@pytest.mark.parametrize("endpoint", ["10.0.0.7", ":5051", "host:port"])
def test_an_address_without_host_or_port_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="MESOS_AGENT_ENDPOINT"):
        MesosSettings.read({**ENVIRONMENT, "MESOS_AGENT_ENDPOINT": endpoint})


# --- leases -----------------------------------------------------------------------------------------------


def test_a_lease_is_over_when_the_scheduler_is_silent() -> None:
    lease = Lease(900, 0.0)
    lease.on_agent(1.0, is_connected=True)
    lease.on_word(10.0, lease_s=60)

    assert lease.over(69.9) is None
    assert lease.over(70.0) == "no word from the scheduler for 60 s"
    lease.on_word(69.0)
    assert lease.over(70.0) is None


def test_a_lease_is_over_when_the_agent_does_not_return() -> None:
    lease = Lease(900, 0.0)
    lease.on_agent(1.0, is_connected=True)
    lease.on_word(20.0, lease_s=60)
    lease.on_agent(15.0, is_connected=False)
    lease.on_agent(40.0, is_connected=False)

    assert lease.over(74.9) is None
    assert lease.over(75.0) == "no agent for 60 s"
    lease.on_agent(74.0, is_connected=True)
    assert lease.over(75.0) is None


def test_a_lease_is_never_longer_than_the_agent_waits() -> None:
    lease = Lease(100, 0.0)
    lease.on_agent(0.0, is_connected=True)
    lease.on_word(0.0, lease_s=3600)

    assert lease.over(99.0) is None
    assert lease.over(100.0) is not None


def test_without_any_subscription_the_lease_ends_after_the_recovery_timeout() -> None:
    assert Lease(100, 0.0).over(100.0) == "no agent for 100 s"
