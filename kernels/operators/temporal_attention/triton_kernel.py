"""Temporal attention as Triton kernels (TA of Eq. 3): softmax(q kᵀ / √D) v over the T tokens at one location.

An item is a *sequence*, one location and head of one window: T rows of D numbers for each of q, k and v, which lie
L·3·H·D apart in the packed tensor. There are B·L·H of them, far more than there are tokens in each (base: 1,536 a
window, of 5), so several share a block. Everything is read once and written once, in the layout that the projections
before and after have.

Two tactics:

- ``rows``: a block holds the keys and values of R sequences in registers and goes through the T queries; it multiplies
  on the ordinary cores, everything in fp32.
- ``tiles``: as many sequences as fit are stacked into one tile of M rows, and one product on the tensor cores gives all
  their scores; those between different sequences (the tile is block-diagonal) are masked.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from sdtc.kernels.common.kernel_launch import Launch, check_range, check_tactic, next_power_of_2, run_packed
from sdtc.kernels.common.torch_operators import MAX_D, MAX_T, MIN_D

TACTICS = ("rows", "tiles")


@triton.jit
def temporal_attention_rows(
    qkv,
    items,
    out,
    T: tl.constexpr,
    L: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    T_PAD: tl.constexpr,
    D_PAD: tl.constexpr,
    R: tl.constexpr,
    SCALE: tl.constexpr,
):
    WIDTH: tl.constexpr = H * D
    i = tl.program_id(0) * R + tl.arange(0, R)  # [R]
    t = tl.arange(0, T_PAD)
    d = tl.arange(0, D_PAD)
    h = i % H
    token = (i // (H * L)).to(tl.int64) * (T * L) + (i // H) % L  # of the first frame; the next is L further
    there = (i < items)[:, None] & (d < D)[None, :]  # [R, D]
    rows = there[:, None, :] & (t < T)[None, :, None]  # [R, T, D]
    at = (token * (3 * WIDTH) + h * D)[:, None, None] + (t * (L * 3 * WIDTH))[None, :, None] + d[None, None, :]
    k = tl.load(qkv + at + WIDTH, mask=rows, other=0.0).to(tl.float32)  # [R, T, D]
    v = tl.load(qkv + at + 2 * WIDTH, mask=rows, other=0.0).to(tl.float32)  # [R, T, D]
    query = qkv + (token * (3 * WIDTH) + h * D)[:, None] + d[None, :]
    answer = out + (token * WIDTH + h * D)[:, None] + d[None, :]
    for _ in range(T):
        q = tl.load(query, mask=there, other=0.0).to(tl.float32)  # [R, D]
        s = tl.sum(q[:, None, :] * k, axis=2) * SCALE  # [R, T]
        s = tl.where((t < T)[None, :], s, float("-inf"))
        p = tl.exp(s - tl.max(s, axis=1)[:, None])
        p = p / tl.sum(p, axis=1)[:, None]
        o = tl.sum(p[:, :, None] * v, axis=1)  # [R, D]
        tl.store(answer, o.to(out.dtype.element_ty), mask=there)
        query += L * 3 * WIDTH
        answer += L * WIDTH


@triton.jit
def temporal_attention_tiles(
    qkv,
    items,
    out,
    T: tl.constexpr,
    L: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    M: tl.constexpr,
    SCALE: tl.constexpr,
):
    WIDTH: tl.constexpr = H * D
    G: tl.constexpr = M // T  # sequences in a tile
    r = tl.arange(0, M)
    d = tl.arange(0, D_PAD)
    g = r // T
    i = tl.program_id(0) * G + g  # [M]
    h = i % H
    token = (i // (H * L)).to(tl.int64) * (T * L) + (i // H) % L + (r % T) * L
    there = ((g < G) & (i < items))[:, None] & (d < D)[None, :]  # [M, D]
    at = qkv + (token * (3 * WIDTH) + h * D)[:, None] + d[None, :]
    q = tl.load(at, mask=there, other=0.0)  # [M, D]
    k = tl.load(at + WIDTH, mask=there, other=0.0)  # [M, D]
    v = tl.load(at + 2 * WIDTH, mask=there, other=0.0)  # [M, D]
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * SCALE  # [M, M]
    # Rows beyond the last sequence are zeros and see each other, which is harmless: they are not stored.
    s = tl.where(g[:, None] == g[None, :], s, float("-inf"))
    p = tl.exp(s - tl.max(s, axis=1)[:, None])
    p = p / tl.sum(p, axis=1)[:, None]
    o = tl.dot(p.to(v.dtype), v, input_precision="ieee")  # [M, D]
    tl.store(out + (token * WIDTH + h * D)[:, None] + d[None, :], o.to(out.dtype.element_ty), mask=there)


def plan(T: int, L: int, H: int, D: int, dtype: str, tactic: str = "") -> Launch:
    """Describe the kernel for packed tokens ``[B, T, L, 3, H, D]``.

    Args:
        T, L, H, D: the shape.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: one of `TACTICS`; by default tiles, but rows for fp32, which tensor cores do not have.

    Raises:
        KernelError: T or D is out of range.
    """
    check_tactic("temporal_attention", tactic, TACTICS)
    check_range("temporal_attention", "T", T, 1, MAX_T)
    check_range("temporal_attention", "D", D, MIN_D, MAX_D)
    T_PAD, D_PAD = next_power_of_2(T), next_power_of_2(D)
    constants = {"T": T, "L": L, "H": H, "D": D, "D_PAD": D_PAD, "SCALE": D**-0.5}
    if (tactic or ("rows" if dtype == "fp32" else "tiles")) == "rows":
        R = max(1, 8192 // (T_PAD * D_PAD))  # k and v take 64 registers each of 128 threads
        return Launch(
            temporal_attention_rows,
            {"qkv": dtype},
            {"out": dtype},
            constants | {"T_PAD": T_PAD, "R": R},
            items=L * H,
            items_per_block=R,
            scalars=("items",),
        )
    # Tiles of 64 would spill where there are no tensor cores for them (sm_75); fp32 has none anywhere.
    M = 16 if dtype == "fp32" else 32
    return Launch(
        temporal_attention_tiles,
        {"qkv": dtype},
        {"out": dtype},
        constants | {"M": M},
        items=L * H,
        items_per_block=M // T,
        scalars=("items",),
    )


def run(qkv: Tensor, tactic: str = "") -> Tensor:
    """Attend over T at each location: ``[B, T, L, 3, H, D]`` to ``[B, T, L, H*D]``.

    Raises:
        KernelError: dtype, rank, memory layout or size is not what the kernel takes.
    """
    return run_packed("temporal_attention", plan, qkv, tactic)
