"""The TensorRT plugins, checked by NVIDIA's own code in a process of its own: see nvidia_plugins.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the extra kernels")


@pytest.mark.slow
def test_nvidias_decorators_and_expressions_take_our_plugins() -> None:
    for module in ("tensorrt_rtx", "tensorrt_bindings"):
        if not _installed(module):
            pytest.skip(f"needs {module}")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("nvidia_plugins.py")
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["checked"] == 192  # operators x shapes x dtypes x batches x tactics
    for said, refusal in zip(
        ("scale 0.123", "registered in this process already", "sm_72 is not supported"), result["refusals"], strict=True
    ):
        assert said in refusal


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
