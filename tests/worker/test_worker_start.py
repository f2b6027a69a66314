"""Workers that are started while the home of their agent is missing."""

import shutil
from pathlib import Path

from cook_jupyter.worker.task import end_of
from tests.worker.warm import WarmSpawner, site_in


def test_a_worker_that_starts_without_a_home_is_no_failure_of_its_first_task(tmp_path: Path) -> None:
    site = site_in(tmp_path)
    spawner = WarmSpawner(site)
    shutil.rmtree(site.home)
    early, late = spawner.worker(), spawner.worker()

    not_started = early.call(abs, -1)
    site.home.mkdir()
    ended = late.call(abs, -1)
    spawner.close()

    assert end_of(not_started.header).exit_code is None  # it costs its job no retry
    assert ended.value == 1
