"""Compiling kernels: one process either interprets or compiles them, so tests of compiled kernels start another one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable

import pytest


@pytest.fixture(scope="session")
def compiling() -> Callable[..., subprocess.CompletedProcess]:
    """Run Python with some arguments, in a process that compiles kernels unless its environment says otherwise."""

    def run(*command: str, **environment: str) -> subprocess.CompletedProcess:
        env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | environment
        return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)

    return run


@pytest.fixture(scope="session")
def script(compiling) -> Callable[..., dict]:
    """Run a script in such a process, and return what its last line prints, JSON."""

    def run(code: str, **environment: str) -> dict:
        done = compiling("-c", textwrap.dedent(code), **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run
