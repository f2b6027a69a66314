"""A call goes out, runs, and comes back as what the user can use or act on."""

import concurrent.futures
import enum
import functools
import os
import random
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest

from cook_jupyter.errors import (
    BadExit,
    EnvironmentMismatch,
    OutOfMemory,
    ResultLost,
    Tampered,
    TooLarge,
    Unpicklable,
    Unverifiable,
)
from cook_jupyter.payload import encoding, versions
from cook_jupyter.payload.calls import run_call
from cook_jupyter.payload.encoding import encode_call, encode_function
from cook_jupyter.payload.keys import read_or_make_key
from cook_jupyter.payload.results import read_result
from tests.payload.conftest import CallHarness

# --- what goes and comes back -------------------------------------------------------------------------------


def test_a_call_returns_what_the_function_returns(harness: CallHarness) -> None:
    assert harness.call(lambda a, b, *, c: (a, b, c), 1, "two", c=[3]).value == (1, "two", [3])
    assert harness.outcome is not None
    assert harness.outcome.ok
    assert harness.outcome.exit_code == 0


def test_a_closure_travels_with_what_it_closes_over(harness: CallHarness) -> None:
    factor = 3

    assert harness.call_elsewhere(lambda value: value * factor, 14).value == 42


def test_functions_of_the_test_module_run_in_another_process(harness: CallHarness) -> None:
    assert harness.call_elsewhere(doubled_by_a_helper, 21).value == 42


def test_partials_methods_and_builtins_are_functions_too(harness: CallHarness) -> None:
    assert harness.call(functools.partial(pow, 2), 5).value == 32
    assert harness.call("a,b".split, ",").value == ["a", "b"]
    assert harness.call(len, [1, 2, 3]).value == 3


def test_the_function_is_not_cached_once_its_closure_changed(harness: CallHarness) -> None:
    box = [1]

    def peek() -> int:
        return box[0]

    first = harness.call(peek).value
    box[0] = 2

    assert (first, harness.call(peek).value) == (1, 2)


def test_a_call_does_not_see_what_an_earlier_one_left_in_the_function(harness: CallHarness) -> None:
    seen: list[int] = []

    def note(value: int) -> list[int]:
        seen.append(value)
        return seen

    assert [harness.call(note, 1).value, harness.call(note, 2).value] == [[1], [2]]


def test_a_class_comes_back_as_the_very_same_class(harness: CallHarness) -> None:
    class Point:
        def __init__(self, x: int) -> None:
            self.x = x

        def shifted(self) -> "Point":
            return Point(self.x + offset)

    offset = 1
    methods = dict(vars(Point))

    value = harness.call_elsewhere(lambda point: point.shifted(), Point(1)).value

    assert isinstance(value, Point)
    assert value.x == 2
    assert all(vars(Point)[name] is each for name, each in methods.items()), "its methods were replaced"


def test_enums_and_dataclasses_come_back_equal(harness: CallHarness) -> None:
    class Colour(enum.Enum):
        RED = 1

    @dataclass
    class Paint:
        colour: Colour

    value = harness.call_elsewhere(lambda paint: paint, Paint(Colour.RED)).value

    assert value == Paint(Colour.RED)
    assert value.colour is Colour.RED


def test_a_class_of_a_local_module_comes_back_as_the_modules_own(harness: CallHarness) -> None:
    value = harness.call_elsewhere(lambda: Local(7)).value

    assert type(value) is Local


def test_large_arrays_travel_out_of_band_and_come_back_writable(harness: CallHarness) -> None:
    array = np.arange(1_000_000, dtype=np.float64)

    value = harness.call_elsewhere(lambda a: a * 2, array).value

    assert harness.outcome is not None
    assert harness.outcome.blob is not None
    np.testing.assert_array_equal(value, array * 2)
    value[0] = 1.0
    assert value.ctypes.data % 64 == 0


def test_small_arrays_come_back_writable_too(harness: CallHarness) -> None:
    value = harness.call(lambda: np.zeros(4)).value

    value[0] = 1.0

    assert harness.outcome is not None
    assert harness.outcome.blob is None


def test_changing_an_array_in_the_call_changes_neither_the_blob_nor_the_original(
    harness: CallHarness,
) -> None:
    array = np.zeros(100_000)

    def spoil(a: Any) -> float:
        a += 1
        return float(a.sum())

    assert harness.call(spoil, array).value == 100_000
    assert array.sum() == 0


def test_a_call_is_encoded_before_its_arguments_can_change(harness: CallHarness) -> None:
    array = np.zeros(100_000)
    env, job = harness.encode(np.sum, (array,), {})

    array += 1

    assert harness.run(env, job).value == 0


def test_data_frames_and_strided_arrays_travel(harness: CallHarness) -> None:
    frame = pd.DataFrame({"price": np.arange(50_000.0), "name": ["x"] * 50_000})

    pd.testing.assert_frame_equal(harness.call(lambda f: f, frame).value, frame)
    np.testing.assert_array_equal(
        harness.call(lambda a: a, np.arange(90_000).reshape(300, 300).T[::2]).value,
        np.arange(90_000).reshape(300, 300).T[::2],
    )


def test_a_store_that_others_may_write_to_gets_every_buffer_hashed(harness: CallHarness) -> None:
    Path(harness.store.url).chmod(0o777)
    harness.store = type(harness.store)(Path(harness.store.url))  # type: ignore[call-arg]
    array = np.arange(100_000.0)

    assert harness.call(lambda a: a.sum(), array).value == array.sum()
    assert harness.call(lambda a: a + 1, array).value.sum() == (array + 1).sum()


def test_a_large_capture_is_named_with_its_size(harness: CallHarness) -> None:
    data = np.zeros(2_000_000)

    with pytest.warns(UserWarning, match=r"15 MB along, most of it in closure 'data' \(15 MB\)"):
        assert harness.call(lambda: len(data)).value == 2_000_000


# --- bundles ------------------------------------------------------------------------------------------------


def test_a_bundle_returns_a_result_for_each_call_in_order(harness: CallHarness) -> None:
    result = harness.bundle(lambda a, b: a - b, [5, 6, 7], [1, 1, 1])

    assert result.value == [4, 5, 6]
    assert not result.errors


def test_a_bundle_keeps_the_results_of_calls_beside_a_failed_one(harness: CallHarness) -> None:
    result = harness.bundle(lambda a: 10 // a, [1, 0, 5])

    assert result.value == [10, None, 2]
    assert list(result.errors) == [1]
    assert isinstance(result.errors[1], ZeroDivisionError)
    assert harness.outcome is not None
    assert not harness.outcome.ok
    assert harness.outcome.exit_code == 1


def test_stop_iteration_in_a_bundle_ends_one_call_alone(harness: CallHarness) -> None:
    def stop_at_two(value: int) -> int:
        if value == 2:
            raise StopIteration
        return value

    result = harness.bundle(stop_at_two, [1, 2, 3])

    assert result.value == [1, None, 3]
    assert isinstance(result.errors[1], StopIteration)


def test_one_unpicklable_result_does_not_spoil_its_bundle(harness: CallHarness) -> None:
    result = harness.bundle(lambda a: threading.Lock() if a == 1 else a, [0, 1, 2])

    assert result.value == [0, None, 2]
    assert isinstance(result.errors[1], ResultLost)


def test_a_call_of_a_bundle_that_exits_fails_alone(harness: CallHarness) -> None:
    result = harness.bundle(lambda a: sys.exit(3) if a else a, [0, 1, 0])

    assert isinstance(result.errors[1], BadExit)
    assert result.value == [0, None, 0]


# --- failures -----------------------------------------------------------------------------------------------


def test_an_exception_comes_back_as_itself_with_the_remote_frames(harness: CallHarness) -> None:
    error = harness.call_elsewhere(fails_deep_down, "sand").error

    assert type(error) is ValueError
    assert str(error) == "sand"
    names = frames_of(error)
    assert names[-2:] == ["fails_deep_down", "_deeper"]
    assert "run_call" not in names
    assert type(error.__cause__) is KeyError
    assert frames_of(error.__cause__)[0] == "_deeper"
    assert any("Cook job" in note and " on " in note for note in error.__notes__)


def test_an_exception_class_of_the_notebook_comes_back_as_itself(harness: CallHarness) -> None:
    class Bust(Exception):
        def __init__(self, amount: int) -> None:
            super().__init__(amount)
            self.amount = amount

    def go_bust() -> NoReturn:
        raise Bust(7)

    error = harness.call_elsewhere(go_bust).error

    assert isinstance(error, Bust)
    assert error.amount == 7


def test_an_exception_group_keeps_its_parts_and_their_frames(harness: CallHarness) -> None:
    def fail() -> NoReturn:
        parts: list[Exception] = []
        for value in ("x", "y"):
            try:
                int(value)
            except ValueError as error:
                parts.append(error)
        raise ExceptionGroup("two", parts)

    error = harness.call(fail).error

    assert isinstance(error, ExceptionGroup)
    assert [frames_of(part) for part in error.exceptions] == [["fail"], ["fail"]]


@pytest.mark.parametrize("code", [None, 0, 3, "a word"])
def test_sys_exit_in_a_call_is_a_bad_exit_and_never_leaves_the_notebook(
    harness: CallHarness, code: Any
) -> None:
    error = harness.call(sys.exit, code).error

    assert isinstance(error, BadExit)
    assert "sys.exit" in str(error)
    assert harness.outcome is not None
    assert harness.outcome.exit_code == (3 if code == 3 else 1)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, GeneratorExit])
def test_what_would_interrupt_the_notebook_comes_as_a_bad_exit(harness: CallHarness, kind: type) -> None:
    def fail() -> NoReturn:
        raise kind

    error = harness.call(fail).error

    assert isinstance(error, BadExit)
    assert kind.__name__ in str(error)


def test_running_out_of_memory_is_told_as_such(harness: CallHarness) -> None:
    error = harness.call(lambda: np.ones((10**7, 10**7))).error

    assert isinstance(error, OutOfMemory)
    assert isinstance(error.__cause__, MemoryError)
    assert "<lambda>" in frames_of(error)
    assert harness.outcome is not None
    assert harness.outcome.out_of_memory


def test_endless_recursion_is_an_exception_like_any_other(harness: CallHarness) -> None:
    def fall(depth: int) -> int:
        return fall(depth + 1)

    error = harness.call_elsewhere(fall, 0).error

    assert isinstance(error, RecursionError)
    assert len(frames_of(error)) <= 200


def test_a_result_that_cannot_be_pickled_names_the_path_to_the_culprit(harness: CallHarness) -> None:
    error = harness.call(lambda: {"models": [Holder()]}).error

    assert isinstance(error, ResultLost)
    assert "the result → ['models'] → [0] → attribute 'lock' cannot be sent back: _thread.lock" in str(error)


def test_a_result_nested_too_deeply_is_said_to_be(harness: CallHarness) -> None:
    def nest() -> list[Any]:
        nested: list[Any] = []
        for _ in range(200_000):
            nested = [nested]
        return nested

    error = harness.call_elsewhere(nest).error

    assert isinstance(error, ResultLost)
    assert "nested too deeply" in str(error)


def test_a_result_beyond_the_limit_is_refused_with_both_numbers(harness: CallHarness) -> None:
    harness.environment["COOK_CALL_RESULT_LIMIT"] = str(2**20)

    error = harness.call(lambda: bytes(3 * 2**20)).error

    assert isinstance(error, ResultLost)
    assert "3.0 MB" in str(error)
    assert "1 MB" in str(error)


def test_the_traceback_is_also_in_stderr(harness: CallHarness, capsys: pytest.CaptureFixture[str]) -> None:
    harness.call(fails_deep_down, "sand")

    told = capsys.readouterr().err
    assert "ValueError: sand" in told
    assert "run_call" not in told


# --- what cannot go out -------------------------------------------------------------------------------------


def test_an_unpicklable_capture_is_named_with_its_path_and_a_way_out() -> None:
    model = Holder()

    def f() -> Any:
        return model

    with pytest.raises(Unpicklable) as caught:
        encode_function(f)

    assert "f → closure 'model' → attribute 'lock' cannot be sent: _thread.lock" in str(caught.value)
    assert "create the lock inside the function" in str(caught.value)


def test_an_unpicklable_argument_is_named_with_its_place(harness: CallHarness) -> None:
    with pytest.raises(Unpicklable) as caught:
        harness.call(print, 1, {"log": Holder()})
    assert str(caught.value) == (
        "argument 2 → ['log'] → attribute 'lock' cannot be sent: _thread.lock cannot be pickled. To go on, "
        "create the lock inside the function."
    )


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (threading.Lock(), "argument 1 cannot be sent: _thread.lock cannot be pickled. To go on, "),
        (concurrent.futures.Future(), "argument 1 cannot be sent: it is a future, which belongs"),
    ],
)
def test_what_cannot_be_sent_is_named_once(harness: CallHarness, value: object, says: str) -> None:
    with pytest.raises(Unpicklable) as caught:
        harness.call(print, value)
    assert str(caught.value).startswith(says)
    assert str(caught.value).count("argument 1") == 1


def test_an_unpicklable_argument_of_a_bundle_is_named_with_its_call(harness: CallHarness) -> None:
    with pytest.raises(Unpicklable, match=re.escape("argument 2 of call 3 → attribute 'lock'")):
        harness.bundle(print, [1, 2, 3], [1, 2, Holder()])


def test_a_generator_cannot_travel_and_a_list_is_advised(harness: CallHarness) -> None:
    with pytest.raises(Unpicklable, match="pass a list of its values"):
        harness.call(sum, (value for value in range(3)))


def test_arguments_nested_too_deeply_are_said_to_be(harness: CallHarness) -> None:
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]

    with pytest.raises(Unpicklable, match="nested too deeply"):
        harness.call(len, nested)


def test_arguments_beyond_the_limit_are_refused(
    harness: CallHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CALL_LIMIT_BYTES", 1000)

    with pytest.raises(TooLarge, match="put the data into a file"):
        harness.call(len, bytes(2000))


def test_a_module_level_lock_of_a_local_module_does_not_hinder(harness: CallHarness, tmp_path: Path) -> None:
    (tmp_path / "guarded_module.py").write_text(
        "import threading\nLOCK = threading.Lock()\ndef f(x):\n    with LOCK:\n        return x + 1\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import guarded_module  # type: ignore[import-not-found]

        assert harness.call_elsewhere(guarded_module.f, 1).value == 2
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("guarded_module", None)


# --- trust --------------------------------------------------------------------------------------------------


def test_a_call_signed_for_another_job_is_not_run(harness: CallHarness) -> None:
    env, _ = harness.encode(os.getpid, (), {})

    assert isinstance(harness.run(env, str(uuid4())).error, Tampered)


def test_a_result_of_another_instance_is_not_read(harness: CallHarness) -> None:
    env, job = harness.encode(os.getpid, (), {})
    done = run_call(env, job_id=job, instance_id=str(uuid4()))
    assert done.inline is not None

    with pytest.raises(ResultLost, match="run again"):
        read_result(done.inline, key=harness.key, job_id=job, instance_id=str(uuid4()))


def test_a_function_that_was_replaced_in_the_store_is_not_run(harness: CallHarness) -> None:
    env, job = harness.encode(lambda: "good", (), {})
    functions = Path(harness.store.url) / "functions"
    evil = b"".join(bytes(piece) for piece in encode_function(lambda: "evil").pieces)
    for blob in functions.iterdir():
        blob.write_bytes(evil)

    assert isinstance(harness.run(env, job).error, Tampered)


def test_a_function_that_is_cut_short_in_the_store_is_not_run_and_nobody_is_accused(
    harness: CallHarness,
) -> None:
    env, job = harness.encode(lambda: "good", (), {})
    (blob,) = (Path(harness.store.url) / "functions").iterdir()
    blob.write_bytes(blob.read_bytes()[:-100])

    error = harness.run(env, job).error

    assert type(error) is Unverifiable
    assert "cut short" in str(error)


def test_a_key_that_was_replaced_since_the_call_was_signed_accuses_nobody(harness: CallHarness) -> None:
    env, job = harness.encode(lambda: "good", (), {})
    Path(harness.key_file).unlink()
    harness.key = read_or_make_key(harness.key_file)

    error = harness.run(env, job).error

    assert type(error) is Unverifiable
    assert "replaced" in str(error)


def test_a_captured_array_that_changes_while_its_function_is_sent_does_not_look_altered(
    harness: CallHarness,
) -> None:
    array = np.zeros(100_000)
    blob = encode_function(array.sum)
    array += 1
    harness.store.put(blob.name, blob.pieces)
    content = harness.store.get(blob.name)

    encoding.check_digest(content, blob.digest)


def test_without_a_key_nothing_is_run(harness: CallHarness, capsys: pytest.CaptureFixture[str]) -> None:
    env, job = harness.encode(lambda: print("ran"), (), {})
    Path(harness.key_file).unlink()

    done = run_call(env, job_id=job, instance_id=str(uuid4()))

    assert (done.ok, done.inline, done.blob) == (False, None, None)
    told = capsys.readouterr()
    assert "without a key are refused" in told.err
    assert "ran" not in told.out


def test_tampered_bytes_are_never_unpickled(harness: CallHarness) -> None:
    bomb = encode_call(harness.put(len), (Bomb(),), {}, key=harness.key, job_id="j", private=True)
    content = bytearray(b"".join(bomb.pieces))
    content[60] ^= 1
    env, job = harness.encode(len, ([],), {})
    import base64

    env["COOK_CALL"] = base64.b64encode(content).decode()

    assert isinstance(harness.run(env, job).error, Tampered)
    assert not Bomb.exploded


# --- versions -----------------------------------------------------------------------------------------------


def test_another_python_is_found_before_anything_is_unpickled(
    harness: CallHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "fingerprint", lambda: {"python": "3.99.1", "cloudpickle": "3.1.2"})
    env, job = harness.encode(len, (Bomb(),), {})
    monkeypatch.undo()

    error = harness.run(env, job).error

    assert isinstance(error, EnvironmentMismatch)
    assert not Bomb.exploded
    assert "3.99.1" in str(error)
    assert ".".join(map(str, sys.version_info[:3])) in str(error)
    assert "notebook" in str(error)
    assert "host" in str(error)


def test_another_patch_release_is_no_hindrance() -> None:
    major, minor = sys.version_info[:2]

    assert versions.mismatch({"python": f"{major}.{minor}.99", "cook_jupyter": "0.0.1"}) is None


def test_a_package_that_is_missing_on_the_host_is_named() -> None:
    difference = versions.mismatch(
        {"python": ".".join(map(str, sys.version_info[:2])), "no_such_package": "1.0"}
    )

    assert difference is not None
    assert "not installed" in difference


# --- surroundings -------------------------------------------------------------------------------------------


def test_a_call_runs_in_the_notebooks_folder(
    harness: CallHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert harness.call_elsewhere(os.getcwd).value == str(tmp_path)


def test_a_module_beside_the_notebook_is_found_and_read_anew_after_an_edit(
    harness: CallHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "beside_the_notebook.py"
    module.write_text("ANSWER = 1\n")
    monkeypatch.syspath_prepend(tmp_path)

    def ask() -> int:
        import beside_the_notebook  # type: ignore[import-not-found]

        return int(beside_the_notebook.ANSWER)

    first = harness.call_elsewhere(ask).value
    module.write_text("ANSWER = 22\n")
    os.utime(module, ns=(time.time_ns(), time.time_ns() + 5_000_000_000))

    assert (first, harness.call_elsewhere(ask).value) == (1, 22)


def test_two_notebooks_may_have_modules_of_the_same_name(
    harness: CallHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []

    def ask() -> str:
        import same_name  # type: ignore[import-not-found]

        return str(same_name.WHO)

    for who in ("ada", "bob"):
        folder = tmp_path / who
        folder.mkdir()
        (folder / "same_name.py").write_text(f"WHO = {who!r}\n")
        with monkeypatch.context() as patch:
            patch.syspath_prepend(folder)
            answers.append(harness.call_elsewhere(ask).value)

    assert answers == ["ada", "bob"]


def test_no_job_inherits_the_random_stream_that_another_one_seeded(harness: CallHarness) -> None:
    harness.call(random.seed, 1)
    first = harness.call(random.random).value
    harness.call(np.random.seed, 1)
    first_numpy = harness.call(np.random.random).value
    harness.call(random.seed, 1)
    harness.call(np.random.seed, 1)

    assert harness.call(random.random).value != first
    assert harness.call(np.random.random).value != first_numpy


@pytest.mark.parametrize("draw", [random.random, random.randint, np.random.random, np.random.normal])
def test_equal_random_calls_give_different_numbers(harness: CallHarness, draw: Any) -> None:
    args = (1, 10**9) if draw == random.randint else ()

    assert harness.call(draw, *args).value != harness.call(draw, *args).value


def test_the_environment_stays_at_home(harness: CallHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = os.environ
    monkeypatch.setenv("MY_SECRET", "canary-7f3a")

    blob = encode_function(lambda: environment.get("HOME"))
    bound = encode_function(os.environ.get)

    assert b"canary-7f3a" not in b"".join(blob.pieces)
    assert b"canary-7f3a" not in b"".join(bound.pieces)


def test_importing_calls_loads_neither_cloudpickle_nor_anything_heavy() -> None:
    program = (
        "import sys, cook_jupyter.payload.calls; "
        "print([m for m in ('cloudpickle', 'numpy', 'fsspec', 'tblib', 'asyncio', 'importlib.metadata') "
        "if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


# --- what these tests send ----------------------------------------------------------------------------------


def doubled_by_a_helper(value: int) -> int:
    return _twice(value)


def _twice(value: int) -> int:
    return value * 2


def fails_deep_down(word: str) -> None:
    _deeper(word)


def _deeper(word: str) -> None:
    try:
        os.environ["NO SUCH GRAIN"]
    except KeyError as error:  # its frames are those of os.environ
        raise ValueError(word) from error


def frames_of(error: BaseException | None) -> list[str]:
    """The names of the functions in an exception's traceback."""
    assert error is not None
    names = []
    frames = error.__traceback__
    while frames is not None:
        names.append(frames.tb_frame.f_code.co_name)
        frames = frames.tb_next
    return names


class Local:
    def __init__(self, value: int) -> None:
        self.value = value


class Holder:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class Bomb:
    exploded = False

    def __reduce__(self) -> Any:
        return (setattr, (Bomb, "exploded", True))
