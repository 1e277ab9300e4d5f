"""Temporal attention as Triton kernels (TA of Eq. 3): softmax(q kᵀ / √D) v over the T tokens at one location.

An item is a *sequence*: one location and head of one window. Its q, k and v are T rows of D numbers each, L·3·H·D apart
in the packed tensor. There are many short sequences (base: 1,536 a window, of 5 tokens), so a block computes several.
Everything is read once and written once, in the layout of the projections before and after.

Two tactics:

- ``rows``: a block holds the keys and values of R sequences in registers and loops over the T queries. It multiplies on
  the ordinary cores, all in fp32.
- ``tiles``: as many sequences as fit are stacked into a tile of M rows. One product on the tensor cores gives all their
  scores; the scores between different sequences are masked, which leaves the blocks on the diagonal.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import LOG2_E, tl, triton


@triton.jit(do_not_specialize=["items"])
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
    token = (i // (H * L)).to(tl.int64) * (T * L) + (i // H) % L  # of the first frame; L tokens on is the next frame's
    there = (i < items)[:, None] & (d < D)[None, :]  # [R, D]
    rows = there[:, None, :] & (t < T)[None, :, None]  # [R, T, D]
    at = (token * (3 * WIDTH) + h * D)[:, None, None] + (t * (L * 3 * WIDTH))[None, :, None] + d[None, None, :]
    k = tl.load(qkv + at + WIDTH, mask=rows, other=0.0).to(tl.float32)  # [R, T, D]
    v = tl.load(qkv + at + 2 * WIDTH, mask=rows, other=0.0).to(tl.float32)  # [R, T, D]
    query = qkv + (token * (3 * WIDTH) + h * D)[:, None] + d[None, :]
    answer = out + (token * WIDTH + h * D)[:, None] + d[None, :]
    for _ in range(T):
        q = tl.load(query, mask=there, other=0.0).to(tl.float32)  # [R, D]
        s = tl.sum(q[:, None, :] * k, axis=2) * (SCALE * LOG2_E)  # [R, T]
        s = tl.where((t < T)[None, :], s, float("-inf"))
        p = tl.exp2(s - tl.max(s, axis=1)[:, None])
        p = p / tl.sum(p, axis=1)[:, None]
        o = tl.sum(p[:, :, None] * v, axis=1)  # [R, D]
        tl.store(answer, o.to(out.dtype.element_ty), mask=there)
        query += L * 3 * WIDTH
        answer += L * WIDTH


@triton.jit(do_not_specialize=["items"])
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
    s = tl.dot(q, tl.trans(k), input_precision="ieee") * (SCALE * LOG2_E)  # [M, M]
    # Rows beyond the last sequence are zeros and attend to each other. They are not stored.
    s = tl.where(g[:, None] == g[None, :], s, float("-inf"))
    p = tl.exp2(s - tl.max(s, axis=1)[:, None])
    p = p / tl.sum(p, axis=1)[:, None]
    o = tl.dot(p.to(v.dtype), v, input_precision="ieee")  # [M, D]
    tl.store(out + (token * WIDTH + h * D)[:, None] + d[None, :], o.to(out.dtype.element_ty), mask=there)
