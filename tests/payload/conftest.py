"""A harness that encodes calls and runs them as a host does, in this process or in another one."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from cook_jupyter.payload.blobs import BlobStore, DirectoryStore
from cook_jupyter.payload.calls import CallOutcome, run_call
from cook_jupyter.payload.encoding import (
    FunctionReference,
    call_environment,
    encode_bundle,
    encode_call,
    encode_function,
)
from cook_jupyter.payload.keys import Key, read_or_make_key
from cook_jupyter.payload.requirements import HostRequirements
from cook_jupyter.payload.results import CallResult, read_result
from tests.waiting import HANG_S

_HOST = """
import base64, json, sys
from cook_jupyter.payload.calls import run_call
for line in sys.stdin:
    request = json.loads(line)
    done = run_call(request["env"], job_id=request["job"], instance_id=request["instance"])
    inline = base64.b64encode(done.inline).decode() if done.inline is not None else None
    outcome = [done.ok, done.exit_code, inline, done.blob, done.size, done.out_of_memory]
    print("outcome", json.dumps(outcome), flush=True)
"""


class CallHarness:
    """Encodes calls with a key and a store, runs them, and reads their results."""

    def __init__(self, folder: Path) -> None:
        self.key_file = str(folder / "keys" / "ada")
        self.key: Key = read_or_make_key(self.key_file)
        self.store: BlobStore = DirectoryStore(folder / "blobs")
        (folder / "blobs").mkdir(mode=0o700)
        self.requirements = HostRequirements(
            interpreter=sys.executable, store_url=self.store.url, key_file=self.key_file
        )
        self.environment: dict[str, str] = {}
        self.outcome: CallOutcome | None = None
        self._other: subprocess.Popen[str] | None = None

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> CallResult:
        """Run a call in this process."""
        env, job = self.encode(function, args, kwargs)
        return self.run(env, job)

    def bundle(self, function: Callable[..., Any], *columns: list[Any]) -> CallResult:
        """Run a bundle of calls in this process."""
        job = str(uuid4())
        sealed = encode_bundle(
            self.put(function), columns, key=self.key, job_id=job, private=self.store.private
        )
        return self.run(
            call_environment(sealed, job_id=job, store=self.store, requirements=self.requirements), job
        )

    def call_elsewhere(self, function: Callable[..., Any], *args: Any) -> CallResult:
        """Run a call in a separate warm process, as a host does."""
        env, job = self.encode(function, args, {})
        if self._other is None:
            self._other = subprocess.Popen(
                [sys.executable, "-P", "-c", _HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._other.stdin is not None
        assert self._other.stdout is not None
        instance = str(uuid4())
        self._other.stdin.write(json.dumps({"env": env, "job": job, "instance": instance}) + "\n")
        self._other.stdin.flush()
        answer = ""
        while not answer.startswith("outcome "):
            answer = self._other.stdout.readline()
            assert answer, "the host ended"
        ok, code, inline, blob, size, memory = json.loads(answer.removeprefix("outcome "))
        self.outcome = CallOutcome(
            ok=ok,
            exit_code=code,
            inline=None if inline is None else base64.b64decode(inline),
            blob=blob,
            size=size,
            out_of_memory=memory,
        )
        return self.read(self.outcome, job, instance)

    def encode(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[dict[str, str], str]:
        job = str(uuid4())
        sealed = encode_call(
            self.put(function), args, kwargs, key=self.key, job_id=job, private=self.store.private
        )
        env = call_environment(sealed, job_id=job, store=self.store, requirements=self.requirements)
        return {**env, **self.environment}, job

    def put(self, function: Callable[..., Any]) -> FunctionReference:
        blob = encode_function(function, private=self.store.private)
        self.store.put(blob.name, blob.pieces)
        return blob.reference

    def run(self, env: Mapping[str, str], job: str) -> CallResult:
        instance = str(uuid4())
        self.outcome = run_call(env, job_id=job, instance_id=instance)
        return self.read(self.outcome, job, instance)

    def read(self, outcome: CallOutcome, job: str, instance: str) -> CallResult:
        content = outcome.inline
        if outcome.blob is not None:
            return read_result(
                self.store.get(outcome.blob),
                key=self.key,
                job_id=job,
                instance_id=instance,
                private=self.store.private,
            )
        assert content is not None
        return read_result(content, key=self.key, job_id=job, instance_id=instance)

    def close(self) -> None:
        if self._other is not None:
            assert self._other.stdin is not None
            self._other.stdin.close()
            self._other.wait(timeout=HANG_S)
            assert self._other.stdout is not None
            self._other.stdout.close()


@pytest.fixture
def harness(tmp_path: Path) -> Any:
    made = CallHarness(tmp_path)
    yield made
    made.close()
