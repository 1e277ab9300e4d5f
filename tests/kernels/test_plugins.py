"""The TensorRT plugins, checked by NVIDIA's own code in a process of its own: see nvidia_plugins.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sdtc.core.errors import KernelError

pytest.importorskip("triton", reason="needs the extra kernels")


@pytest.mark.slow
# `checked`: operators x shapes x attributes x dtypes x batches x tactics
@pytest.mark.parametrize(("capability", "checked"), [(80, 240), (75, 88)])
def test_nvidias_decorators_and_expressions_take_our_plugins(capability, checked) -> None:
    """On both architectures a plugin asks for no more shared memory than there is, and no tactic spills."""
    for module in ("tensorrt_rtx", "tensorrt_bindings"):
        if not _installed(module):
            pytest.skip(f"needs {module}")
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("nvidia_plugins.py")
    run = subprocess.run(
        [sys.executable, script, str(capability)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    assert result["checked"] == checked
    for said, refusal in zip(
        (
            "scale 0.123",
            "`axis` is 3",
            f"TemporalAttention for sm_{capability} is registered in this process already",
            f"SpatialAttention for sm_{capability} is registered",
            "sm_72 is not supported",
        ),
        result["refusals"],
        strict=True,
    ):
        assert said in refusal


def test_a_network_whose_kernels_do_not_fit_the_gpu_gets_no_plugins() -> None:
    """With `plugins='auto'` the export takes the operators' bodies then, with 'on' it says so."""
    from sdtc.kernels import plugins

    for capability in (75, 80, 87, 120):
        for axis in (1, 2):
            plugins.check(plugins.OPERATORS, 5, 192, 256, 8, axis, capability)  # base
    plugins.check(plugins.OPERATORS, 5, 192, 1024, 8, 2, 80)
    for axis, said in ((1, "self_refinement: a map of 32 channels"), (2, "cross_attention: maps of 32 channels")):
        with pytest.raises(KernelError, match=f"{said}.* does not fit sm_75"):  # over pixels, the former does
            plugins.check(plugins.OPERATORS, 5, 192, 32, 1, axis, 75)
    with pytest.raises(KernelError, match=r"spatial_attention: .* with D = 128 does not fit sm_75: .*`plugins='auto'`"):
        plugins.check(plugins.OPERATORS, 5, 192, 1024, 8, 2, 75)
    plugins.check(["TemporalAttention"], 5, 257, 256, 8, 2, 80)
    plugins.check(["TemporalAttention"], 5, 192, 32, 1, 2, 75)
    with pytest.raises(KernelError, match="tokens is 257: the kernel takes 1 to 256"):
        plugins.check(plugins.OPERATORS, 5, 257, 256, 8, 2, 80)
    with pytest.raises(KernelError, match="sm_72 is not supported"):
        plugins.check(plugins.OPERATORS, 5, 192, 256, 8, 2, 72)


def _installed(module: str) -> bool:
    from importlib.util import find_spec

    return find_spec(module) is not None
