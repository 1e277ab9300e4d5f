"""The Triton kernel that copies tokens out of a pool of slots or into it.

A row is all tokens of one frame: L·C contiguous values. A block copies `BLOCK` of them. Slots are not checked: the
caller keeps them inside the pool.
"""

from __future__ import annotations

from sdtc.kernels.common.with_triton import tl, triton


@triton.jit
def gather_tokens_block(source, slots, target, LENGTH: tl.constexpr, BLOCK: tl.constexpr, SCATTER: tl.constexpr):
    BLOCKS: tl.constexpr = (LENGTH + BLOCK - 1) // BLOCK
    row = (tl.program_id(0) // BLOCKS).to(tl.int64)
    at = (tl.program_id(0) % BLOCKS) * BLOCK + tl.arange(0, BLOCK)
    slot = tl.load(slots + row).to(tl.int64)
    if SCATTER:
        source += row * LENGTH
        target += slot * LENGTH
    else:
        source += slot * LENGTH
        target += row * LENGTH
    there = at < LENGTH
    tl.store(target + at, tl.load(source + at, mask=there), mask=there)
