"""Self-feature refinement as one Triton kernel (Eq. 6-8, without the convolution), on maps ``[B, C, N]``.

As the paper writes it, a map X of C channels and N pixels goes through contexts OC = X · Oᵀ of C × C. They are larger
than X itself (base: 256 × 256 against 256 × 192) and would have to be written to memory and read again. In another
order the same products stay on the chip, and look like an attention whose keys and values are the context maps O:

    G = Xᵀ · X                     [M, N]    the M pixels of a block against all N
    A = softmax(G · Oᵀ)            [M, C]    = softmax(Xᵀ · OC), online over channels
    P = A · O                      [M, N]
    out = X · Pᵀ                   [C, M]    = OC · Aᵀ

For a softmax over channels, the first pass over X also finds every pixel's maximum and sum; for one over pixels, a tile
holds whole rows of X, and the second pass needs nothing but the tile.

A block reads X three times, but from memory once: the blocks of one map run together, and X is far smaller than L2.
Both softmaxes are in fp32, and so are the scores, sums of N · C products, whose absolute error the softmax turns into a
relative error of the result. Three TF32 products on the tensor cores would be as exact as one in fp32, but need twice
the registers that there are. Behind the softmax an error stays as small as it is: for X in half precision the last two
products are TF32, whose factors have as many bits as fp16's.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import LOG2_E, tl, triton


@triton.jit
def self_refinement_tiles(
    x,
    out,
    C: tl.constexpr,
    N: tl.constexpr,
    N_PAD: tl.constexpr,
    M: tl.constexpr,
    K: tl.constexpr,
    AXIS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    TILES: tl.constexpr = (N + M - 1) // M
    block = tl.program_id(0)
    base = (block // TILES).to(tl.int64) * (C * N)
    m = (block % TILES) * M + tl.arange(0, M)
    n = tl.arange(0, N_PAD)
    c = tl.arange(0, K)
    # G, and what a softmax over channels (AXIS 1) needs of every pixel: its maximum and its sum.
    top = tl.full([N_PAD], float("-inf"), tl.float32)
    total = tl.zeros([N_PAD], tl.float32)
    G = tl.zeros([M, N_PAD], tl.float32)
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        X_m = tl.load(x + row + m[None, :], mask=there & (m < N)[None, :], other=0.0)  # [K, M]
        X = tl.load(x + row + n[None, :], mask=there & (n < N)[None, :], other=0.0)  # [K, N]
        G = tl.dot(tl.trans(X_m), X, G, input_precision="ieee")
        if AXIS == 1:
            logits = tl.where(there, X.to(tl.float32) * LOG2_E, float("-inf"))
            higher = tl.maximum(top, tl.max(logits, axis=0))
            total = total * tl.exp2(top - higher) + tl.sum(tl.exp2(logits - higher[None, :]), axis=0)
            top = higher
    best = tl.full([M], float("-inf"), tl.float32)
    weight = tl.zeros([M], tl.float32)
    P = tl.zeros([M, N_PAD], tl.float32)
    for start in range(0, C, K):
        there = start + c < C
        row = base + (start + c)[:, None] * N
        mask = there[:, None] & (n < N)[None, :]
        X = tl.load(x + row + n[None, :], mask=mask, other=0.0).to(tl.float32)
        if AXIS == 1:
            O = tl.where(mask, tl.exp2(X * LOG2_E - top[None, :]) / total[None, :], 0.0)  # [K, N]  Eq. 6  # noqa: E741
            s = tl.dot(G, tl.trans(O), input_precision="ieee") * LOG2_E  # [M, K]
            s = tl.where(there[None, :], s, float("-inf"))
            higher = tl.maximum(best, tl.max(s, axis=1))
            shrink = tl.exp2(best - higher)
            A = tl.exp2(s - higher[:, None])
            weight = weight * shrink + tl.sum(A, axis=1)
        else:
            X = tl.where((n < N)[None, :], X * LOG2_E, float("-inf"))  # a row holds all pixels of its channel
            O = tl.exp2(X - tl.max(X, axis=1)[:, None])  # noqa: E741
            O = O / tl.sum(O, axis=1)[:, None]  # [K, N]  Eq. 6  # noqa: E741
            s = tl.dot(O, tl.trans(G), input_precision="ieee") * LOG2_E  # [K, M]: as [M, K] it would spill
            s = tl.where(there[:, None], s, float("-inf"))
            higher = tl.maximum(best, tl.max(s, axis=0))
            shrink = tl.exp2(best - higher)
            A = tl.exp2(s - higher[None, :])
            weight = weight * shrink + tl.sum(A, axis=0)
            A = tl.trans(A)
        P = tl.dot(A, O, P * shrink[:, None], input_precision=PRECISION)
        best = higher
    P = P / weight[:, None]
    for start in range(0, C, K):
        there = (start + c < C)[:, None]
        row = base + (start + c)[:, None] * N
        X = tl.load(x + row + n[None, :], mask=there & (n < N)[None, :], other=0.0).to(tl.float32)
        o = tl.dot(X, tl.trans(P), input_precision=PRECISION)  # [K, M]  Eq. 8
        tl.store(out + row + m[None, :], o.to(out.dtype.element_ty), mask=there & (m < N)[None, :])
