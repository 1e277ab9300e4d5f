"""Spatial and joint attention as a Triton kernel (SA of Eq. 3, MHSA of Eq. 2): softmax(q kᵀ / √D) v over L tokens.

One block computes a tile of queries of one frame and head. It loops over tiles of keys and values with the online
softmax: a running maximum m and a running sum; whenever m grows, the sums so far are multiplied by exp(m_old − m). The
blocks of one frame and head are neighbours in the grid, so only the first of them reads keys and values from memory,
the others from L2.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import LOG2_E, tl, triton


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
        s = tl.dot(q, tl.trans(k), input_precision="ieee") * (SCALE * LOG2_E)  # [M, N]
        s = tl.where(there[None, :], s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, axis=1))
        shrink = tl.exp2(top - higher)
        p = tl.exp2(s - higher[:, None])
        total = total * shrink + tl.sum(p, axis=1)
        o = tl.dot(p.to(v.dtype), v, o * shrink[:, None], input_precision="ieee")
        top = higher
    o = o / total[:, None]
    out += frame * (L * WIDTH) + h * D
    tl.store(out + m[:, None] * WIDTH + d[None, :], o.to(out.dtype.element_ty), mask=asked)
