"""Spatial and joint attention as a Triton kernel (SA of Eq. 3, MHSA of Eq. 2): softmax(q kᵀ / √D) v over L tokens.

One block answers a tile of queries of one frame and head. It goes over tiles of keys and values with the online
softmax: running maximum m and sum z, and whenever the maximum grows, what was summed so far shrinks by exp(m_old − m).
The blocks of one frame and head are neighbours in the grid, so keys and values come from L2 but for the first time.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sdtc.kernels.common.kernel_launch import Launch, check_range, check_tactic, next_power_of_2, run_packed
from sdtc.kernels.common.torch_operators import MAX_D, MIN_D

TACTICS = ("large", "small")
MAX_L = 1 << 16


@triton.jit
def spatial_attention_tiles(
    qkv,
    out,
    L: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    SCALE: tl.constexpr,
):
    WIDTH: tl.constexpr = H * D
    TILES: tl.constexpr = (L + M - 1) // M
    block = tl.program_id(0)
    h = (block // TILES) % H
    frame = (block // (TILES * H)).to(tl.int64)
    d = tl.arange(0, D_PAD)
    m = (block % TILES) * M + tl.arange(0, M)
    n = tl.arange(0, N)
    asked = (m < L)[:, None] & (d < D)[None, :]  # [M, D]
    qkv += frame * (L * 3 * WIDTH) + h * D
    q = tl.load(qkv + m[:, None] * (3 * WIDTH) + d[None, :], mask=asked, other=0.0)  # [M, D]
    top = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    o = tl.zeros([M, D_PAD], tl.float32)
    for start in range(0, L, N):
        there = start + n < L
        mask = there[:, None] & (d < D)[None, :]
        at = qkv + (start + n)[:, None] * (3 * WIDTH) + d[None, :]
        k = tl.load(at + WIDTH, mask=mask, other=0.0)  # [N, D]
        v = tl.load(at + 2 * WIDTH, mask=mask, other=0.0)  # [N, D]
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * SCALE  # [M, N]
        s = tl.where(there[None, :], s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, axis=1))
        shrink = tl.exp(top - higher)
        p = tl.exp(s - higher[:, None])
        total = total * shrink + tl.sum(p, axis=1)
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision="ieee")
        top = higher
    o = o / total[:, None]
    out += frame * (L * WIDTH) + h * D
    tl.store(out + m[:, None] * WIDTH + d[None, :], o.to(out.dtype.element_ty), mask=asked)


def plan(T: int, L: int, H: int, D: int, dtype: str, tactic: str = "") -> Launch:
    """Describe the kernel for packed tokens ``[B, T, L, 3, H, D]``.

    Args:
        T, L, H, D: the shape.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: of tiles, one of `TACTICS`; by default large ones for half precision, small ones for fp32.

    Raises:
        KernelError: L or D is out of range.
    """
    check_tactic("spatial_attention", tactic, TACTICS)
    check_range("spatial_attention", "L", L, 1, MAX_L)
    check_range("spatial_attention", "D", D, MIN_D, MAX_D)
    large = (tactic or ("small" if dtype == "fp32" else "large")) == "large"
    D_PAD = next_power_of_2(D)
    M, N = 64 if large else 32, 32
    if dtype == "fp32":  # without tensor cores: as much as registers and shared memory hold
        M, N = M // 2, max(16, min(32 if large else 16, 1024 // D_PAD))
    return Launch(
        spatial_attention_tiles,
        {"qkv": dtype},
        {"out": dtype},
        {"L": L, "H": H, "D": D, "D_PAD": D_PAD, "M": M, "N": N, "SCALE": D**-0.5},
        items=T * H * ((L + M - 1) // M),
    )


def run(qkv: Tensor, tactic: str = "") -> Tensor:
    """Attend over L in each frame: ``[B, T, L, 3, H, D]`` to ``[B, T, L, H*D]``.

    Raises:
        KernelError: dtype, rank, memory layout or size is not what the kernel takes.
    """
    return run_packed("spatial_attention", plan, qkv, tactic)
