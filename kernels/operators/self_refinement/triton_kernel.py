"""Self-feature refinement as one Triton kernel (Eq. 6-8, without the convolution), on maps ``[B, C, N]``.

As the paper writes it, X of C channels and N pixels goes through contexts OC = X · Oᵀ of C × C, which are larger than X
itself (base: 256 × 256 against 256 × 192) and would have to be written out and read again. Reordered, the same products
never leave the chip, and look like an attention whose keys and values are the context maps O:

    G = Xᵀ · X                     [M, N]    for the M pixels of a block against all N
    A = softmax(G · Oᵀ)            [M, C]    = softmax(Xᵀ · OC), online over channels
    P = A · O                      [M, N]
    out = X · Pᵀ                   [C, M]    = OC · Aᵀ

X is read three times by a block, but from memory once: the blocks of one map run together, and it is far smaller than
L2. Both softmaxes are in fp32, and so are all products but G's, whose factors are X itself: the scores are sums over
N · C products, and the softmax turns their absolute error into a relative one of the result. In TF32, of three products
each, it would be as exact on the tensor cores, but takes twice the registers that there are.
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
from sdtc.kernels.common.torch_operators import MAX_REFINED_PIXELS

TACTICS = ("block",)
MAX_C = 2048


@triton.jit
def self_refinement_tiles(
    x,
    out,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
):
    TILES: tl.constexpr = (N + M - 1) // M
    block = tl.program_id(0)
    base = (block // TILES).to(tl.int64) * (C * N)
    m = (block % TILES) * M + tl.arange(0, M)
    n = tl.arange(0, N_PAD)
    c = tl.arange(0, K)
    # G, and what the softmax over channels needs of every pixel: its maximum and its sum.
    top = tl.full([N_PAD], float("-inf"), tl.float32)
    total = tl.zeros([N_PAD], tl.float32)
    G = tl.zeros([M, N_PAD], tl.float32)
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        X_m = tl.load(x + row + m[None, :], mask=there & (m < N)[None, :], other=0.0)  # [K, M]
        X = tl.load(x + row + n[None, :], mask=there & (n < N)[None, :], other=0.0)  # [K, N]
        G = tl.dot(tl.trans(X_m), X, G, input_precision="ieee")
        logits = tl.where(there, X.to(tl.float32), float("-inf"))
        higher = tl.maximum(top, tl.max(logits, axis=0))
        total = total * tl.exp(top - higher) + tl.sum(tl.exp(logits - higher[None, :]), axis=0)
        top = higher
    best = tl.full([M], float("-inf"), tl.float32)
    weight = tl.zeros([M], tl.float32)
    P = tl.zeros([M, N_PAD], tl.float32)
    for start in range(0, C, K):
        there = start + c < C
        row = base + (start + c)[:, None] * N
        mask = there[:, None] & (n < N)[None, :]
        X = tl.load(x + row + n[None, :], mask=mask, other=0.0).to(tl.float32)
        O = tl.where(mask, tl.exp(X - top[None, :]) / total[None, :], 0.0)  # [K, N]  Eq. 6  # noqa: E741
        s = tl.dot(G, tl.trans(O), input_precision="ieee")  # [M, K]
        s = tl.where(there[None, :], s, float("-inf"))
        higher = tl.maximum(best, tl.max(s, axis=1))
        shrink = tl.exp(best - higher)
        A = tl.exp(s - higher[:, None])
        weight = weight * shrink + tl.sum(A, axis=1)
        P = tl.dot(A, O, P * shrink[:, None], input_precision="ieee")
        best = higher
    P = P / weight[:, None]
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        X = tl.load(x + row + n[None, :], mask=there & (n < N)[None, :], other=0.0).to(tl.float32)
        o = tl.dot(X, tl.trans(P), input_precision="ieee")  # [K, M]  Eq. 8
        tl.store(out + row + m[None, :], o.to(out.dtype.element_ty), mask=there & (m < N)[None, :])


def plan(C: int, N: int, dtype: str, tactic: str = "") -> Launch:
    """Describe the kernel for maps ``[B, C, N]``.

    Args:
        C, N: channels and pixels.
        dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        tactic: there is only one.

    Raises:
        KernelError: C or N is out of range.
    """
    check_tactic("self_refinement", tactic, TACTICS)
    check_range("self_refinement", "C", C, 1, MAX_C)
    check_range("self_refinement", "N", N, 1, MAX_REFINED_PIXELS)
    N_PAD = max(16, next_power_of_2(N))
    return Launch(
        self_refinement_tiles,
        {"x": dtype},
        {"out": dtype},
        {"C": C, "N": N, "N_PAD": N_PAD, "M": 16, "K": 16},
        items=(N + 15) // 16,
        num_warps=8,
        num_stages=1,
    )


def run(x: Tensor, tactic: str = "") -> Tensor:
    """Refine a map by its own contexts: ``[B, C, N]`` to ``[B, C, N]``.

    Raises:
        KernelError: dtype, rank, memory layout or size is not what the kernel takes.
    """
    name = "self_refinement"
    check_tensor(name, "x", x, "[B, C, N]")
    out = torch.empty_like(x)
    plan(x.shape[1], x.shape[2], dtype_name(x.dtype, name), tactic).run([x], [out], x.shape[0])
    return out
