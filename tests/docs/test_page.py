"""The runner of examples itself: without a scheduler."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.page import blocks_of

PAGE = """# A page

```python
def double(number: int) -> int:
    return 2 * number
```

Later:

```python
print(double(21))
```

```text
42
```

```python no-run
launch_the_missiles()
```

```console
$ echo one two
one ...
```
"""


def run(page: Path) -> subprocess.CompletedProcess[str]:
    program = Path(__file__).with_name("page.py")
    return subprocess.run([sys.executable, program, page], capture_output=True, text=True, check=False)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


def test_the_blocks_of_a_page_share_one_namespace(page: Path) -> None:
    done = run(page)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 examples ran\n"


def test_an_example_that_fails_names_its_line_in_the_page(page: Path) -> None:
    page.write_text(PAGE.replace("print(double(21))", "print(double(no_such_name))"))

    done = run(page)

    assert done.returncode != 0
    assert 'page.md", line 11' in done.stderr


def test_an_example_that_prints_something_else_than_the_page_shows_fails(page: Path) -> None:
    page.write_text(PAGE.replace("double(21)", "double(20)"))

    done = run(page)

    assert done.returncode != 0
    assert "WrongOutput" in done.stderr


def test_a_command_that_fails_fails_the_page(page: Path) -> None:
    page.write_text(PAGE.replace("echo one two", "exit 3"))

    done = run(page)

    assert done.returncode != 0
    assert "`exit 3` ended with 3" in done.stderr


def test_a_page_with_magics_runs_in_ipython(page: Path) -> None:
    page.write_text(
        "```ipython\nimport asyncio\nawait asyncio.sleep(0)\n%precision 2\n```\n\n"
        "```python\nprint('ok')\n```\n\n```text\nok\n```\n"
    )

    done = run(page)

    assert done.returncode == 0, done.stderr
    assert done.stdout == "2 examples ran\n"


def test_a_block_inside_a_list_loses_its_indent() -> None:
    [block] = blocks_of("- like so:\n\n  ```python\n  if True:\n      pass\n  ```\n")

    assert block.source == "if True:\n    pass\n"
    assert block.line == 4
