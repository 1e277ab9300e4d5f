"""Ahead-of-time compilation, without a GPU.

In one process Triton either interprets kernels or compiles them: here it compiles, in processes of its own.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import textwrap

import pytest

from sdtc.core.errors import KernelError

pytest.importorskip("triton", reason="needs the extra kernels")
from sdtc.kernels import aot, report

ENTRY = """
.visible .entry kernel(
	.param .u64 .ptr .global .align 1 kernel_param_0,
	.param .u32 kernel_param_1,
	.param .u64 .ptr .global .align 1 kernel_param_2,
	.param .u64 .ptr .global .align 1 kernel_param_3,
	.param .u64 .ptr .global .align 1 kernel_param_4
)
.reqntid 128
{
	ld.param.b64 	%rd1, [kernel_param_0];
	ld.param.b64 	%rd2, [kernel_param_2];
	ret;
}
"""


def compiling(*command: str, **environment: str) -> subprocess.CompletedProcess:
    env = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | environment
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, check=False)


def script(code: str, **environment: str) -> dict:
    run = compiling("-c", textwrap.dedent(code), **environment)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict[str, str]]:
    """The report on every kernel of `base` for every architecture: minutes if nothing is in the cache."""
    folder = tmp_path_factory.mktemp("report")
    run = compiling("-m", "sdtc.kernels.report", "--output", str(folder))
    assert run.returncode == 0, run.stderr
    assert "kernels.csv" in run.stdout
    assert (folder / "kernels.png").is_file()
    with (folder / "kernels.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_kernel_compiles_for_every_architecture(rows) -> None:
    assert {row["architecture"] for row in rows} == {f"sm_{arch}" for arch in aot.ARCHITECTURES}
    per_architecture = {arch: sum(row["architecture"] == arch for row in rows) for arch in ("sm_75", "sm_80", "sm_120")}
    assert per_architecture == {"sm_75": 23, "sm_80": 33, "sm_120": 33}  # Turing has no bf16


@pytest.mark.slow
def test_nothing_is_spilled(rows) -> None:
    assert [row for row in rows if row["spilled_bytes"] != "0"] == []


@pytest.mark.slow
def test_shared_memory_is_what_a_plugin_has(rows) -> None:
    assert max(int(row["shared_bytes"]) for row in rows) <= 48 << 10


@pytest.mark.slow
def test_tokens_are_loaded_and_stored_in_vectors(rows) -> None:
    for row in rows:
        if row["operator"].endswith(("temporal_attention", "spatial_attention", "joint_attention")):
            assert row["vector_loads"] == row["loads"], row
            assert row["vector_stores"] == row["stores"], row
        elif row["operator"] == "gather_tokens":  # but for the slot
            assert int(row["vector_loads"]) == int(row["loads"]) - 1 == int(row["vector_stores"]) == int(row["stores"])
        elif row["operator"] != "crop_frame":  # whose three bytes a pixel lie wherever the box is
            assert int(row["vector_loads"]) >= 1, row


@pytest.mark.slow
def test_attention_in_half_precision_uses_tensor_cores(rows) -> None:
    for row in rows:
        attention = row["operator"].endswith("attention") and row["tactic"] != "rows"
        if attention and row["dtype"] != "fp32" and row["architecture"] != "sm_75":
            assert int(row["tensor_core"]) > 0, row


@pytest.mark.slow
def test_fused_operators_move_a_third_of_the_bytes_or_less(rows) -> None:
    for row in rows:
        if row["operator"] in ("temporal_attention", "self_refinement"):
            assert int(row["unfused_bytes"]) >= 3 * int(row["compulsory_bytes"])


@pytest.mark.slow
def test_a_multiprocessor_holds_at_least_one_block(rows) -> None:
    assert all(int(row["blocks_per_sm"]) >= 1 and 0 < float(row["occupancy"]) <= 1 for row in rows)


@pytest.mark.slow
def test_what_is_compiled_is_found_again(rows) -> None:
    """For every architecture and kernel at once: nothing is compiled, and a kernel's source is read once."""
    found = script(
        """
        import json
        from sdtc.kernels import aot, report
        def compile_kernel(*arguments): raise AssertionError("it is compiled again")
        aot.compile_kernel = compile_kernel
        work = [(case.launch, arch) for case in report.cases() for arch in aot.ARCHITECTURES
                if aot.supports(arch, case.dtype)]
        aot.compile_all(work)
        sources = len({id(launch.kernel) for launch, _ in work})
        print(json.dumps({"read": aot._source.cache_info().misses, "sources": sources, "kernels": len(work)}))
        """
    )
    assert found["kernels"] == len(rows)
    assert found["read"] == found["sources"] < 20


@pytest.mark.slow
def test_the_largest_shapes_compile_without_spills_too() -> None:
    found = script(
        """
        import json
        from sdtc.kernels import aot
        from sdtc.kernels.gpu import (
            crop_frame, cross_attention, decode_heatmaps, self_refinement, spatial_attention, temporal_attention)
        launches = [
            *(temporal_attention.plan(16, 48, 2, D, dtype, tactic)
              for D in (64, 128) for dtype in ("fp16", "fp32") for tactic in temporal_attention.TACTICS),
            *(spatial_attention.plan(1, 3072, 2, D, dtype, tactic)
              for D in (64, 128) for dtype in ("fp16", "fp32") for tactic in spatial_attention.TACTICS),
            *(self_refinement.plan(384, N, dtype, tactic) for N in (256, 512)
              for dtype in ("fp16", "fp32") for tactic in self_refinement.TACTICS),
            *(cross_attention.plan(384, N, dtype) for N in (256, 512) for dtype in ("fp16", "fp32")),
            decode_heatmaps.plan(17, 256, 256, (1024, 1024), "fp32"),
            crop_frame.plan((256, 192), "fp16", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
        ]
        compiled = aot.compile_all([(launch, 80) for launch in launches])
        print(json.dumps([[launch.kernel.fn.__name__, str(dict(launch.constants)), done.local, done.shared]
                          for launch, done in zip(launches, compiled)]))
        """
    )
    assert [kernel for kernel in found if kernel[2] > 0] == []
    # Maps of more than 256 pixels are for PyTorch alone: plugins do not take them.
    assert [kernel for kernel in found if kernel[3] > (99 if "'N': 512" in kernel[1] else 48) << 10] == []


@pytest.mark.slow
def test_the_cache_knows_kernels_by_content_and_survives_damage(tmp_path) -> None:
    result = script(
        f"""
        import dataclasses, json
        from pathlib import Path
        from sdtc.kernels import aot
        from sdtc.kernels.gpu import decode_heatmaps
        cache = Path({str(tmp_path)!r})
        launch = decode_heatmaps.plan(3, 8, 6, (32, 24), "fp32")
        first = aot.compile_kernel(launch, 80, cache)
        entry, = cache.iterdir()
        again = aot.compile_kernel(launch, 80, cache)
        entry.write_text(entry.read_text()[:100])
        mended = aot.compile_kernel(launch, 80, cache)
        aot.compile_kernel(dataclasses.replace(launch, num_warps=2), 80, cache)
        aot.compile_kernel(launch, 86, cache)
        print(json.dumps({{
            "same": [first == again, first.ptx == mended.ptx], "entries": len(list(cache.iterdir())),
            "parameters": aot.ptx_parameters(first.ptx), "elf": first.cubin[:4] == b"\x7fELF",
            "paths": ".py" in first.ptx,
        }}))
        """
    )
    assert result == {"same": [True, True], "entries": 3, "parameters": ["u64", "u64"], "elf": True, "paths": False}


@pytest.mark.slow
def test_stripped_ptx_is_still_assembled(tmp_path) -> None:
    result = script(
        f"""
        import json, subprocess, triton
        from pathlib import Path
        from sdtc.kernels import aot
        from sdtc.kernels.gpu import temporal_attention
        compiled = aot.compile_kernel(temporal_attention.plan(5, 48, 4, 16, "fp16"), 80)
        path = Path({str(tmp_path / "kernel.ptx")!r})
        path.write_text(compiled.ptx)
        tool = triton.knobs.nvidia.ptxas.path
        run = subprocess.run([tool, "-arch=sm_80", path, "-o", path.with_suffix(".cubin")], capture_output=True)
        print(json.dumps({{"code": run.returncode, "parameters": aot.ptx_parameters(compiled.ptx)}}))
        """
    )
    assert result == {"code": 0, "parameters": ["u64", "u32", "u64"]}


def test_hidden_parameters_are_taken_out_unless_they_are_used() -> None:
    stripped = aot.strip_hidden_parameters(ENTRY, 3)
    assert aot.ptx_parameters(ENTRY) == ["u64", "u32", "u64", "u64", "u64"]
    assert aot.ptx_parameters(stripped) == ["u64", "u32", "u64"]
    assert stripped.count("kernel_param_2") == 2
    with pytest.raises(KernelError, match="uses Triton's own parameter kernel_param_2"):
        aot.strip_hidden_parameters(ENTRY, 2)
    with pytest.raises(KernelError, match="has 5 parameters: expected at least 6"):
        aot.strip_hidden_parameters(ENTRY, 6)


@pytest.mark.parametrize(("capability", "architecture"), [(75, 75), (80, 80), (87, 86), (89, 89), (90, 90), (120, 120)])
def test_a_gpu_runs_kernels_of_its_family(capability, architecture) -> None:
    assert aot.architecture_for(capability) == architecture


@pytest.mark.parametrize("capability", [70, 72, 103, 110, 121])  # from sm_90 on, PTX is for one of a family alone
def test_other_gpus_are_refused(capability) -> None:
    with pytest.raises(KernelError, match=f"sm_{capability} is not supported"):
        aot.architecture_for(capability)


def test_occupancy_by_hand() -> None:
    """128 threads of 64 registers: 8 blocks of 8,192 registers, of 2,048 threads on sm_80 half."""
    kernel = aot.Compiled("kernel", 80, "", b"", num_warps=4, shared=0, registers=64, local=0)
    assert report.residency(kernel) == (8, 0.5)
    limited = aot.Compiled("kernel", 86, "", b"", num_warps=4, shared=48 << 10, registers=32, local=0)
    assert report.residency(limited) == (2, 256 / 1536)  # of 100 KiB, 49 each


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "70"], "sm_70 is not supported: expected some of sm_75"),
        (["--workers", "0"], "--workers is 0"),
        (["--output", "nowhere"], "the folder 'nowhere' does not exist"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, said, capsys) -> None:
    assert report.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_interpreted_kernels_cannot_be_compiled(tmp_path) -> None:
    run = compiling("-m", "sdtc.kernels.report", "--arch", "80", "--output", str(tmp_path), TRITON_INTERPRET="1",
                    SDTC_CACHE=str(tmp_path))  # fmt: skip
    assert run.returncode == 2
    assert "TRITON_INTERPRET is set" in run.stderr
    assert "Traceback" not in run.stderr
