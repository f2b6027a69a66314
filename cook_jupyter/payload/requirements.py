"""What a host needs to run a call, besides the call.

Lives here: `HostRequirements`, and how a job carries it: the interpreter in its command, the rest in its
environment variables.
Not here: the call itself (`payload.encoding`), where the requirements of a notebook come from
(`executor.connection`).

The job of a call can be run by any Cook server: it is a command with environment variables, and these state
all that a host must have.

Node agents import this module, so it loads little.
"""

import functools
import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

CALL = "COOK_CALL"  # the call, base64
CALL_BLOB = "COOK_CALL_BLOB"  # or the name of the blob that holds it
CALL_VARIABLES = (CALL, CALL_BLOB)

_STORE_URL = "COOK_CALL_STORE"
_KEY_FILE = "COOK_CALL_KEYFILE"
_ARGUMENTS = ["-m", "cook_jupyter.worker", "call"]


class HostRequirements(NamedTuple):
    """What a host needs to run the calls of a notebook; all paths are those of the host.

    Attributes:
        interpreter: path of a Python interpreter with cook_jupyter, or its name on the PATH.
        store_url: URL or directory of the blob store with functions, large calls and large results.
        key_file: path of the file with the signing key of the user.
    """

    interpreter: str
    store_url: str
    key_file: str

    @property
    def command(self) -> str:
        """The command that runs a call; our own worker recognises it, and uses a warm process instead."""
        return " ".join((_quote(self.interpreter), *_ARGUMENTS))

    def variables(self) -> dict[str, str]:
        """Return the environment variables that a job of a call needs besides those of the call."""
        return {_STORE_URL: self.store_url, _KEY_FILE: self.key_file}


def read_requirements(environment: Mapping[str, str], *, interpreter: str) -> HostRequirements:
    """Return the requirements that the job of a call states.

    Args:
        environment: environment variables of the job.
        interpreter: interpreter that runs the call.

    Raises:
        KeyError: a variable is missing.
    """
    return HostRequirements(
        interpreter=interpreter, store_url=environment[_STORE_URL], key_file=environment[_KEY_FILE]
    )


def is_call(environment: Mapping[str, str]) -> bool:
    """Return whether a job is a call of Python; else it is a shell command.

    Args:
        environment: environment variables of the job.
    """
    return CALL in environment or CALL_BLOB in environment


def call_interpreter(command: str, environment: Mapping[str, str]) -> str | None:
    """Return the interpreter that a job of a call requires; None for a shell command.

    An interpreter without an absolute path is left to the shell.

    Args:
        command: command of the job.
        environment: environment variables of the job.
    """
    return _interpreter_in(command) if is_call(environment) else None


@functools.lru_cache(maxsize=64)  # splitting a command costs as much as all the rest of a launch
def _interpreter_in(command: str) -> str | None:
    try:
        words = shlex.split(command)
    except ValueError:
        return None
    return words[0] if words[1:] == _ARGUMENTS and words[0].startswith("/") else None


def _quote(word: str) -> str:
    return word if re.fullmatch(r"[\w@%+=:,./-]+", word) else "'" + word.replace("'", "'\"'\"'") + "'"
