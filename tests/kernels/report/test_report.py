"""The report on compiled kernels, without a GPU."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs the extra kernels")
from sdtc.kernels.aot import ARCHITECTURES, Compiled
from sdtc.kernels.report.analysis import residency
from sdtc.kernels.report.cli import main

# Of machine code, the most of all architectures but sm_75 (Triton 3.9).
INSTRUCTIONS = {
    ("temporal_attention", "rows"): {"fp32": 1624, "fp16": 1205, "bf16": 1275},
    ("temporal_attention", "tiles"): {"fp32": 366, "fp16": 391, "bf16": 391},
    ("spatial_attention", "large"): {"fp32": 981, "fp16": 722, "bf16": 722},
    ("spatial_attention", "small"): {"fp32": 414, "fp16": 383, "bf16": 383},
    ("joint_attention", "large"): {"fp32": 983, "fp16": 722, "bf16": 722},
    ("joint_attention", "small"): {"fp32": 413, "fp16": 385, "bf16": 385},
    ("pixel_refinement", "block"): {"fp32": 1988, "fp16": 1791, "bf16": 1859},
    ("channel_refinement", "block"): {"fp32": 1959, "fp16": 1567, "bf16": 1648},
    ("cross_attention", "large"): {"fp32": 1075, "fp16": 2298, "bf16": 2298},
    ("cross_attention", "small"): {"fp32": 1075, "fp16": 1792, "bf16": 1792},
    ("decode_heatmaps", "block"): {"fp32": 244, "fp16": 344, "bf16": 344},
    ("crop_frame", "block"): {"u8": 340},
    ("gather_tokens", "gather"): {"fp32": 188},
    ("gather_tokens", "scatter"): {"fp32": 30},
}


@pytest.fixture(scope="module")
def rows(compiling, tmp_path_factory) -> list[dict[str, str]]:
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
    assert {row["architecture"] for row in rows} == {f"sm_{arch}" for arch in ARCHITECTURES}
    per_architecture = {arch: sum(row["architecture"] == arch for row in rows) for arch in ("sm_75", "sm_80", "sm_120")}
    assert per_architecture == {"sm_75": 25, "sm_80": 36, "sm_120": 36}  # Turing has no bf16


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
        elif row["operator"] == "gather_tokens":  # but for the slot, and the four numbers of a place
            taps, scalars = (4, 5) if row["tactic"] == "gather" else (1, 1)
            assert int(row["vector_loads"]) == int(row["loads"]) - scalars == taps * int(row["stores"]) > 0
            assert row["vector_stores"] == row["stores"]
        elif row["operator"] != "crop_frame":  # whose three bytes a pixel lie wherever the box is
            assert int(row["vector_loads"]) >= 1, row


@pytest.mark.slow
def test_tokens_of_all_backbones_are_gathered_in_vectors(script) -> None:
    """The widths of ViTs and of the presets, and one that no power of two from 32 on divides."""
    found = script(
        """
        import json
        from sdtc.kernels import aot
        from sdtc.kernels.operators.gather_tokens import launch as gather_tokens
        from sdtc.kernels.report.analysis import _accesses
        launches = [gather_tokens.configure((16, 12), C, dtype, "gather")
                    for C in (64, 80, 128, 192, 256, 384, 768, 1024, 1280) for dtype in ("fp32", "fp16")]
        work = [(launch, arch) for launch in launches for arch in (75, 90)]
        print(json.dumps([[_accesses(done.ptx, "ld"), _accesses(done.ptx, "st"), done.local, done.shared]
                          for done in aot.compile_all(work)]))
        """
    )
    assert len(found) == 9 * 2 * 2
    for loads, stores, spilled, shared in found:
        assert len(loads) == 4 * len(stores) + 5  # four neighbours; a slot, and the four numbers of a place
        assert sorted(loads)[5:] == [128] * (len(loads) - 5)
        assert set(stores) == {128}
        assert spilled == shared == 0


@pytest.mark.slow
def test_attention_in_half_precision_uses_tensor_cores(rows) -> None:
    for row in rows:
        attention = row["operator"].endswith("attention") and row["tactic"] != "rows"
        if attention and row["dtype"] != "fp32" and row["architecture"] != "sm_75":
            assert int(row["tensor_core"]) > 0, row


@pytest.mark.slow
def test_fused_operators_move_a_third_of_the_bytes_or_less(rows) -> None:
    for row in rows:
        if row["operator"] in ("temporal_attention", "channel_refinement", "pixel_refinement"):
            assert int(row["unfused_bytes"]) >= 3 * int(row["compulsory_bytes"])


@pytest.mark.slow
def test_a_multiprocessor_holds_at_least_one_block(rows) -> None:
    assert all(int(row["blocks_per_sm"]) >= 1 and 0 < float(row["occupancy"]) <= 1 for row in rows)


@pytest.mark.slow
def test_what_is_compiled_is_taken_from_the_cache(rows, script) -> None:
    """For every architecture and kernel at once, with a compiler that must not be called."""
    found = script(
        """
        import json
        from sdtc.kernels import aot
        from sdtc.kernels.report.cases import cases
        aot._compile = aot.ProcessPoolExecutor = None
        work = [(case.launch, arch) for case in cases() for arch in aot.ARCHITECTURES if aot.supports(arch, case.dtype)]
        compiled = aot.compile_all(work)
        print(json.dumps([[done.name, done.architecture] for done in compiled]))
        """
    )
    assert len(found) == len(rows)
    assert [f"sm_{architecture}" for _, architecture in found] == [row["architecture"] for row in rows]


@pytest.mark.slow
def test_older_assemblers_take_the_ptx(rows, script, tmp_path) -> None:
    """Those of CUDA 12.4 and 13.0; for Blackwell, which 12.4 does not know, that of 12.9, which Triton has."""
    pytest.importorskip("nvidia", reason="needs NVIDIA's assemblers, see the extra dev")
    import nvidia

    tools = {}
    for version, place in (("12.4", "cuda_nvcc/bin/ptxas"), ("13.0", "cu13/bin/ptxas")):
        tools[version] = next(
            (str(Path(root) / place) for root in nvidia.__path__ if (Path(root) / place).exists()), ""
        )
        if not tools[version]:
            pytest.skip(f"the assembler of CUDA {version} is not installed")
    found = script(
        f"""
        import json, os, subprocess, triton
        from concurrent.futures import ThreadPoolExecutor
        from pathlib import Path
        from sdtc.kernels import aot
        from sdtc.kernels.report.cases import cases
        tools = json.loads({json.dumps(tools)!r})
        tools["12.9"] = triton.knobs.nvidia.ptxas.path
        work = [(case.launch, arch) for case in cases() for arch in aot.ARCHITECTURES if aot.supports(arch, case.dtype)]

        def assemble(job):
            number, compiled = job
            path = Path({str(tmp_path)!r}) / f"{{number}}.ptx"
            path.write_text(compiled.ptx)
            arch = f"sm_{{compiled.architecture}}{{'a' * (compiled.architecture >= 90)}}"
            found = []
            for version in ("12.4" if compiled.architecture < 100 else "12.9", "13.0"):
                command = [tools[version], "-O0", f"-arch={{arch}}", str(path), "-o", os.devnull]
                run = subprocess.run(command, capture_output=True, text=True)
                found += [f"{{version}} {{compiled.name}} {{arch}}: {{run.stderr[:300]}}"] if run.returncode else []
            return found

        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            print(json.dumps(sum(pool.map(assemble, enumerate(aot.compile_all(work))), [])))
        """
    )
    assert found == []


@pytest.mark.slow
def test_kernels_have_no_more_instructions_than_they_had(rows) -> None:
    """Of sm_80 and newer, where half precision runs on tensor cores; more would be a fall-back, or unrolled loops."""
    more = [
        row
        for row in rows
        if row["architecture"] != "sm_75"
        and int(row["instructions"]) > 1.1 * INSTRUCTIONS[row["operator"], row["tactic"]][row["dtype"]]
    ]
    assert more == []


def test_occupancy_by_hand() -> None:
    """128 threads of 64 registers: 8 blocks of 8,192 registers, of 2,048 threads on sm_80 half."""
    kernel = Compiled("kernel", 80, "", b"", num_warps=4, shared=0, registers=64, local=0)
    assert residency(kernel) == (8, 0.5)
    limited = Compiled("kernel", 86, "", b"", num_warps=4, shared=48 << 10, registers=32, local=0)
    assert residency(limited) == (2, 256 / 1536)  # of 100 KiB, 49 each


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--arch", "70"], "sm_70 is not supported: expected some of sm_75"),
        (["--workers", "0"], "--workers is 0"),
        (["--output", "nowhere"], "the folder 'nowhere' does not exist"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(arguments, said, capsys) -> None:
    assert main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_without_triton_the_command_says_which_extra_to_install() -> None:
    program = """
import runpy, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'triton':
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
sys.meta_path.insert(0, Absent())
runpy.run_module("sdtc.kernels.report", run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == (
        "sdtc.kernels.report: error: a Triton kernel needs the package 'triton', which is not installed: run  "
        "pip install 'sdtc[kernels]'\n"
    )
