"""Memory limits: control groups as the kernel lays them out (a copy in files)."""

import os
from pathlib import Path

import pytest

from cook_jupyter.worker.limits import CgroupParent


def a_group(folder: Path, *, hands_down: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "cgroup.procs").touch()
    (folder / "cgroup.subtree_control").write_text(hands_down)
    return folder


def test_the_nearest_folder_that_hands_memory_down_is_ours(tmp_path: Path) -> None:
    slice_ = a_group(tmp_path / "user.slice/app.slice", hands_down="cpu memory pids\n")
    a_group(slice_ / "session.scope", hands_down="")

    groups = CgroupParent.find(str(tmp_path), "/user.slice/app.slice/session.scope")

    assert groups is not None
    group = groups.admit("w1", 1234)
    assert group is not None
    assert group.path == str(slice_ / "cook-w1")
    assert (slice_ / "cook-w1" / "cgroup.procs").read_text() == "1234"


def test_without_a_memory_controller_there_are_no_groups(tmp_path: Path) -> None:
    a_group(tmp_path / "session", hands_down="cpu pids")

    assert CgroupParent.find(str(tmp_path), "/session") is None


def test_the_root_is_never_ours(tmp_path: Path) -> None:
    a_group(tmp_path / "root", hands_down="memory")

    assert CgroupParent.find(str(tmp_path / "root"), "/") is None


def test_what_is_not_ours_to_write_is_left_alone(tmp_path: Path) -> None:
    if os.getuid() == 0:
        pytest.skip("root may write anywhere")
    folder = a_group(tmp_path / "session", hands_down="memory")
    folder.chmod(0o500)

    assert CgroupParent.find(str(tmp_path), "/session") is None


def test_a_limit_is_what_is_held_plus_what_the_task_asked_for(tmp_path: Path) -> None:
    a_group(tmp_path / "s", hands_down="memory")
    groups = CgroupParent.find(str(tmp_path), "/s")
    assert groups is not None
    group = groups.admit("w1", 1)
    assert group is not None
    folder = Path(group.path)
    (folder / "memory.current").write_text("1000\n")
    (folder / "memory.events").write_text("low 0\noom 0\noom_kill 2\n")

    group.limit(1.0)

    assert (folder / "memory.max").read_text() == str(1000 + 2**20)
    assert not group.killed()
    (folder / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert group.killed()
    group.limit(None)
    assert (folder / "memory.max").read_text() == "max"


def test_what_a_group_holds_is_counted_from_when_the_limit_was_set_and_without_files(tmp_path: Path) -> None:
    a_group(tmp_path / "s", hands_down="memory")
    groups = CgroupParent.find(str(tmp_path), "/s")
    assert groups is not None
    group = groups.admit("w1", 1)
    assert group is not None
    folder = Path(group.path)
    assert group.held_mb() is None
    (folder / "memory.current").write_text("1000\n")
    (folder / "memory.events").write_text("oom_kill 0\n")
    (folder / "memory.stat").write_text(f"anon {10 << 20}\nfile {900 << 20}\nshmem {5 << 20}\n")

    group.limit(100.0)
    (folder / "memory.stat").write_text(f"anon {40 << 20}\nfile {1900 << 20}\nshmem {7 << 20}\n")

    assert group.held_mb() == 32.0
