"""The attention inside SMCA as a Triton kernel (Eq. 9): softmax(Qᵀ · K / √C) applied to V, on maps ``[B, C, N]``.

A single head as wide as the network (C up to 384) over few pixels (N up to 512): the other way round than attention
over tokens. So a block keeps the scores of M pixels against *all* N, in registers, and goes over the channels: first
over those of Q and K, to sum up the scores, then, once the softmax is known, over those of V.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from sdtc.kernels.common.kernel_launch import (
    Launch,
    check_range,
    check_tactic,
    check_tensor,
    dtype_name,
    next_power_of_2,
)
from sdtc.kernels.common.torch_operators import MAX_CROSSED_PIXELS

TACTICS = ("large", "small")
MAX_C = 2048


@triton.jit
def cross_attention_tiles(
    q,
    k,
    v,
    out,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
    SCALE: tl.constexpr,
):
    TILES: tl.constexpr = (N + M - 1) // M
    block = tl.program_id(0)
    base = (block // TILES).to(tl.int64) * (C * N)
    m = (block % TILES) * M + tl.arange(0, M)
    n = tl.arange(0, N_PAD)
    c = tl.arange(0, K)
    s = tl.zeros([M, N_PAD], tl.float32)
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        queries = tl.load(q + row + m[None, :], mask=there & (m < N)[None, :], other=0.0)  # [K, M]
        keys = tl.load(k + row + n[None, :], mask=there & (n < N)[None, :], other=0.0)  # [K, N]
        s = tl.dot(tl.trans(queries), keys, s, input_precision="ieee")
    s = tl.where((n < N)[None, :], s * SCALE, float("-inf"))
    p = tl.exp(s - tl.max(s, axis=1)[:, None])
    p = (p / tl.sum(p, axis=1)[:, None]).to(v.dtype.element_ty)  # [M, N]
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        values = tl.load(v + row + n[None, :], mask=there & (n < N)[None, :], other=0.0)  # [K, N]
        o = tl.dot(values, tl.trans(p), input_precision="ieee")  # [K, M]
        tl.store(out + row + m[None, :], o.to(out.dtype.element_ty), mask=there & (m < N)[None, :])


def plan(C: int, N: int, dtype: str, tactic: str = "") -> Launch:
    """Describe the kernel for maps ``[B, C, N]``.

    Args:
        C, N: channels and pixels.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: pixels of a block, one of `TACTICS`.

    Raises:
        KernelError: C or N is out of range.
    """
    check_tactic("cross_attention", tactic, TACTICS)
    check_range("cross_attention", "C", C, 1, MAX_C)
    check_range("cross_attention", "N", N, 1, MAX_CROSSED_PIXELS)
    N_PAD = max(16, next_power_of_2(N))
    M = 32 if (tactic or "large") == "large" and N_PAD <= 256 and dtype != "fp32" else 16
    return Launch(
        cross_attention_tiles,
        {"q": dtype, "k": dtype, "v": dtype},
        {"out": dtype},
        {"C": C, "N": N, "N_PAD": N_PAD, "M": M, "K": max(16, min(32, 4096 // N_PAD)), "SCALE": C**-0.5},
        items=(N + M - 1) // M,
        num_warps=8 if N_PAD > 64 else 4,
        num_stages=1,
    )


def run(q: Tensor, k: Tensor, v: Tensor, tactic: str = "") -> Tensor:
    """Attend from the pixels of one map to those of another: three of ``[B, C, N]`` to ``[B, C, N]``.

    Raises:
        KernelError: dtype, rank, memory layout or size is not what the kernel takes, or they do not agree.
    """
    name = "cross_attention"
    check_tensor(name, "q", q, "[B, C, N]")
    check_tensor(name, "k", k, "[B, C, N]", like=q)
    check_tensor(name, "v", v, "[B, C, N]", like=q)
    out = torch.empty_like(q)
    plan(q.shape[1], q.shape[2], dtype_name(q.dtype, name), tactic).run([q, k, v], [out], q.shape[0])
    return out
