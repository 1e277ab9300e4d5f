"""Triton, for the modules that need it: without it, their import says which extra to install."""

from sdtc.core.errors import require

require("triton", "kernels", "a Triton kernel")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

__all__ = ["tl", "triton"]
