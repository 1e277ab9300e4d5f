"""The grid of all shapes that the operators take, held against the architectures' limits; a small part of it here.

All of it takes many minutes from an empty cache: `python -m sdtc.kernels.report --grid`.
"""

from __future__ import annotations

import csv

import pytest

pytest.importorskip("triton", reason="needs the extra kernels")
from sdtc.kernels.aot import ARCHITECTURES, Compiled, misfit
from sdtc.kernels.common.multiprocessors import MULTIPROCESSORS
from sdtc.kernels.operators.crop_frame import launch as crop_frame
from sdtc.kernels.report.grid import Verdict, broken, grid_table, variants

# Those that spilled or did not fit on sm_75 or elsewhere, and some that came near.
CORNERS = [
    ("temporal_attention", "T=16 L=192 H=8 D=64", "fp16", "tiles"),
    ("temporal_attention", "T=16 L=192 H=8 D=128", "fp16", "rows"),
    ("temporal_attention", "T=16 L=192 H=8 D=128", "fp16", "tiles"),
    ("spatial_attention", "T=5 L=193 H=8 D=64", "fp16", "small"),
    ("spatial_attention", "T=5 L=193 H=8 D=128", "fp16", "small"),
    ("channel_refinement", "C=256 N=256", "fp16", "block"),
    ("pixel_refinement", "C=256 N=257", "fp16", "block"),
    ("channel_refinement", "C=256 N=257", "fp16", "block"),
    ("pixel_refinement", "C=17 N=64", "fp16", "block"),
    ("pixel_refinement", "C=256 N=192", "fp32", "block"),
    ("cross_attention", "C=256 N=512", "fp16", "large"),
    ("decode_heatmaps", "J=15 h=256 w=256", "fp16", "block"),
    ("gather_tokens", "h=16 w=12 C=257", "fp16", "gather"),
]
PLAIN_ON_TURING = [CORNERS[0], CORNERS[2], CORNERS[4], *CORNERS[6:8]]


def test_limits_are_those_of_nvidias_guide() -> None:
    """Technical Specifications per Compute Capability: maximum amount of shared memory per thread block."""
    guide = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}  # KB
    assert {arch: limits.block_shared >> 10 for arch, limits in MULTIPROCESSORS.items()} == guide
    assert tuple(MULTIPROCESSORS) == ARCHITECTURES


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"shared": 65536}, ""),
        ({"shared": 66624}, "takes 66,624 bytes of shared memory, sm_75 has 65,536"),
        ({"registers": 255, "num_warps": 8}, ""),
        ({"registers": 255, "num_warps": 16}, "takes 255 registers in 512 threads, sm_75 has 65,536"),
        ({"local": 32}, ""),
        ({"local": 1424}, "spills 1,424 bytes a thread on sm_75, 32 are allowed"),
    ],
)
def test_what_does_not_fit_is_told(values, said) -> None:
    usual = {"num_warps": 4, "shared": 1024, "registers": 64, "local": 0}
    assert misfit(Compiled("kernel", 75, "", b"", **usual | values)) == said


def test_the_corners_fit_or_are_left_to_pytorch(script) -> None:
    found = script(
        f"""
        import json
        from sdtc.kernels.report.grid import judge, variants
        corners = {CORNERS!r}
        chosen = [each for each in variants() if (each.operator, each.shape, each.dtype, each.tactic) in corners]
        print(json.dumps([vars(each) for each in judge(chosen, [75, 86])]))
        """
    )
    verdicts = [Verdict(**each) for each in found]
    assert len(verdicts) == 2 * len(CORNERS)
    assert broken(verdicts) == [], grid_table(verdicts)
    plain = [(v.architecture, (v.operator, v.shape, v.dtype, v.tactic)) for v in verdicts if not v.taken]
    assert plain == [("sm_75", corner) for corner in PLAIN_ON_TURING]
    assert all(v.misfit for v in verdicts if not v.taken)  # nothing is left to PyTorch that would fit


def test_the_grid_holds_the_edges_of_every_range() -> None:
    shapes = {(each.operator, each.shape) for each in variants()}
    for edge in (
        ("temporal_attention", "T=1 L=192 H=8 D=16"), ("temporal_attention", "T=16 L=192 H=8 D=128"),
        ("spatial_attention", "T=5 L=1 H=8 D=16"), ("spatial_attention", "T=5 L=65536 H=8 D=128"),
        ("channel_refinement", "C=17 N=16"), ("channel_refinement", "C=2048 N=512"),
        ("channel_refinement", "C=256 N=1"), ("pixel_refinement", "C=17 N=16"),
        ("pixel_refinement", "C=2048 N=512"), ("pixel_refinement", "C=256 N=1"),
        ("cross_attention", "C=17 N=16"), ("cross_attention", "C=2048 N=512"), ("cross_attention", "C=256 N=1"),
        ("decode_heatmaps", "J=15 h=2 w=2"), ("decode_heatmaps", "J=15 h=32768 w=2"),
        ("gather_tokens", "h=1 w=1 C=1"), ("gather_tokens", f"h=1 w=1 C={1 << 26}"),
        ("gather_tokens", "h=4096 w=4096 C=4"), ("gather_tokens", "h=4096 w=1 C=1"),
        ("crop_frame", "H=1 W=1"), ("crop_frame", f"H={crop_frame.MAX_SIZE} W={crop_frame.MAX_SIZE}"),
    ):  # fmt: skip
        assert edge in shapes
    # Every combination of constants that are rounded up or chosen for a tile, not sizes themselves.
    found = {
        (each.operator, each.dtype, each.tactic, *(launch.constants.get(name) for name in ("T_PAD", "D_PAD", "N_PAD")))
        for each in variants()
        for launch in [each.configure(None)]
    }
    rows = {key[3] for key in found if key[0] == "temporal_attention" and key[2] == "rows"}
    assert rows == {1, 2, 4, 8, 16}
    assert {key[4] for key in found if key[0] == "spatial_attention"} == {16, 32, 64, 128}
    for name in ("channel_refinement", "pixel_refinement"):
        assert {key[5] for key in found if key[0] == name} == {16, 32, 64, 128, 256, 512}
    tokens = [
        each.configure(None) for each in variants() if (each.operator, each.tactic) == ("gather_tokens", "gather")
    ]
    channels = {launch.constants["CHANNELS"] for launch in tokens}
    assert channels == {1 << power for power in range(9)}
    assert all(launch.constants["TOKENS"] * launch.constants["CHANNELS"] == 1024 for launch in tokens)


@pytest.mark.slow
def test_the_command_compiles_the_grid(compiling, tmp_path) -> None:
    program = """
import sys
from sdtc.kernels.report import cli, grid
few = [each for each in grid.variants() if each.dtype == "fp16" and each.shape in ("C=256 N=257", "C=256 N=16")]
cli.variants = lambda: few
sys.exit(cli.main(["--grid", "--arch", "75", "80", "--output", sys.argv[1]]))
"""
    run = compiling("-c", program, str(tmp_path))
    assert run.returncode == 0, run.stdout + run.stderr
    assert [line.split()[:4] for line in run.stdout.splitlines() if "_refinement" in line[:19]] == [
        ["pixel_refinement", "sm_75", "2", "1"], ["pixel_refinement", "sm_80", "2", "0"],
        ["channel_refinement", "sm_75", "2", "1"], ["channel_refinement", "sm_80", "2", "0"],
    ]  # fmt: skip
    with (tmp_path / "kernels-grid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (2 + 2 + 4)
    assert {row["operator"]: row["misfit"] for row in rows if row["taken"] == "False"} == {
        "channel_refinement": "takes 66,624 bytes of shared memory, sm_75 has 65,536",
        "pixel_refinement": "takes 67,072 bytes of shared memory, sm_75 has 65,536",
    }


def test_a_kernel_that_is_launched_where_it_does_not_fit_is_an_error() -> None:
    good = Verdict("op", "N=1", "fp16", "block", "sm_75", 64, 0, 1024, 65536, True, "")
    bad = Verdict("op", "N=2", "fp16", "block", "sm_75", 64, 1424, 1024, 65536, True, "spills 1,424 bytes a thread")
    left = Verdict("op", "N=3", "fp16", "block", "sm_75", 64, 9999, 1024, 65536, False, "spills 9,999 bytes a thread")
    assert broken([good, bad, left]) == [bad]
    said = grid_table([good, bad, left]).splitlines()
    assert said[-1] == "op N=2 fp16 block is launched, but spills 1,424 bytes a thread"
    assert said[1].split()[:6] == ["op", "sm_75", "3", "1", "64", "1424"]
