"""The attention inside SMCA as a Triton kernel (Eq. 9): softmax(Qᵀ · K / √C) applied to V, on maps ``[B, C, N]``.

It has one head as wide as the network (C up to 384) and few pixels (N up to 512), the opposite of attention over
tokens. So a block keeps the scores of M pixels against *all* N in registers. It loops over the channels of Q and K to
sum up the scores, applies the softmax, then loops over the channels of V.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import LOG2_E, tl, triton


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
    s = tl.where((n < N)[None, :], s * (SCALE * LOG2_E), float("-inf"))
    p = tl.exp2(s - tl.max(s, axis=1)[:, None])
    p = (p / tl.sum(p, axis=1)[:, None]).to(v.dtype.element_ty)  # [M, N]
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        values = tl.load(v + row + n[None, :], mask=there & (n < N)[None, :], other=0.0)  # [K, N]
        o = tl.dot(values, tl.trans(p), input_precision="ieee")  # [K, M]
        tl.store(out + row + m[None, :], o.to(out.dtype.element_ty), mask=there & (m < N)[None, :])
