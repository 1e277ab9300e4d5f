"""The Triton kernels that gather tokens out of a pool of slots, resampled, and scatter them into it.

A row is all tokens of one crop: h·w·C contiguous values. A block of `gather_tokens_block` computes `CHANNELS` channels
of `TOKENS` tokens of a row, so that a place and its weights are computed for a token, not for every value. A block of
`scatter_tokens_block` copies `BLOCK` values. Slots are not checked: the caller keeps them inside the pool. Whatever the
places are, nothing outside of the slot's row is read.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import tl, triton


@triton.jit
def _place(index, scale, offset, SIZE: tl.constexpr):
    """The token at or before a place on an axis, and the weight of the one after it, below 1.

    Where that weight is not 0 the one after it exists.
    """
    # The order matters: of NaN and 0 the maximum is 0 (as IEEE 754-2008 has it), so that nothing else comes out.
    at = tl.minimum(tl.maximum(scale * index + offset, 0.0), SIZE - 1.0)
    first = at.to(tl.int32)
    return first, at - first


@triton.jit
def _between(first, second, weight):
    return tl.where(weight > 0, first + weight * (second - first), first)  # `second` is not loaded where it has none


@triton.jit
def gather_tokens_block(
    source,
    slots,
    places,
    target,
    H: tl.constexpr,
    W: tl.constexpr,
    C: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    PARTS: tl.constexpr = (C + CHANNELS - 1) // CHANNELS
    BLOCKS: tl.constexpr = (H * W + TOKENS - 1) // TOKENS * PARTS
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    block = tl.program_id(0) % BLOCKS
    token = block // PARTS * TOKENS + tl.arange(0, TOKENS)
    channel = (block % PARTS * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    slot = tl.load(slots + row).to(tl.int64)
    places += row * 4
    x, right = _place(token % W, tl.load(places), tl.load(places + 1), W)
    y, below = _place(token // W, tl.load(places + 2), tl.load(places + 3), H)
    there = (token < H * W)[:, None] & (channel < C)
    right = right[:, None]
    below = below[:, None]
    at = source + slot * (H * W * C) + (y * W + x)[:, None] * C + channel  # [TOKENS, CHANNELS]
    on_right = there & (right > 0)
    a = tl.load(at, mask=there).to(tl.float32)
    b = tl.load(at + C, mask=on_right).to(tl.float32)
    c = tl.load(at + W * C, mask=there & (below > 0)).to(tl.float32)
    d = tl.load(at + W * C + C, mask=on_right & (below > 0)).to(tl.float32)
    value = _between(_between(a, c, below), _between(b, d, below), right)
    tl.store(target + row * (H * W * C) + token[:, None] * C + channel, value, mask=there)


@triton.jit
def scatter_tokens_block(source, slots, target, LENGTH: tl.constexpr, BLOCK: tl.constexpr):
    BLOCKS: tl.constexpr = (LENGTH + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    at = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    there = at < LENGTH
    tl.store(target + slot * LENGTH + at, tl.load(source + row * LENGTH + at, mask=there), mask=there)
