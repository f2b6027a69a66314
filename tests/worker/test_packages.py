"""The code of installed packages: what is put back, and what packages do with themselves as they work."""

import subprocess
import sys
from collections.abc import Sequence

from tests.waiting import HANG_S

HEAD = """
import sys
from cook_jupyter.payload.installations import is_installed
from cook_jupyter.worker.namespaces import ImportObserver, is_watched
from cook_jupyter.worker.packages import Packages

packages = Packages()

def executed(name, module):
    if not is_watched(name):
        packages.on_executed(name, module)

sys.meta_path.insert(0, ImportObserver(is_installed, packages.begin_import, packages.end_import, executed))
"""


def restored_after(calls: Sequence[str]) -> list[str]:
    """Return what is found to be replaced after each call, each in a fresh namespace of one process."""
    program = HEAD + f"for code in {list(calls)!r}:\n exec(code, {{}})\n print(*packages.restore().restored)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=HANG_S
    )
    return done.stdout.splitlines()


def test_what_packages_change_of_themselves_as_they_work_is_let_be() -> None:
    frame = "import pandas as p; d = p.DataFrame({'a': [1, 2], 'b': ['x', 'y']});"
    calls = [
        frame + "d.groupby('b').a.agg(['mean', 'std']).T.to_json(); p.set_option('display.width', 9)",
        "import matplotlib as m; m.use('agg'); import matplotlib.pyplot as p; p.plot([1]); p.close('all')",
        "import numpy as n; n.random.default_rng(1).normal(size=9); n.testing.assert_equal(1, 1); n.fft",
        frame + "d.plot(); p.date_range('2020', periods=5).to_series().resample('2D').mean()",
        "import IPython, tornado, msgspec, hypothesis, dask.array as a; a.ones((5, 5)).sum().compute()",
    ]

    assert restored_after([*calls, *calls]) == [""] * 10


def test_replaced_functions_and_methods_are_found_by_their_full_names() -> None:
    calls = [
        "import numpy, pandas",
        "import numpy; numpy.mean = print",
        "import pandas; del pandas.Series.map",
        "",
    ]

    assert restored_after(calls) == ["", "numpy.mean", "pandas.Series.map", ""]


def test_settings_and_caches_of_a_package_are_let_be() -> None:
    calls = ["import numpy", "import numpy; numpy.little_endian = 3; numpy._cache = {}; numpy.NEW = [1]"]

    assert restored_after(calls) == ["", ""]
