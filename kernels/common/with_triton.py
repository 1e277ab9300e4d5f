"""Triton, for the modules that need it: without it, their import says which extra to install."""

from sdtc.core.errors import require

require("triton", "kernels", "a Triton kernel")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402

# Kernels compute powers of two, as the hardware does: exp(x) is exp2(x · log₂ e), and a scale takes up the factor.
LOG2_E = tl.constexpr(1.4426950408889634)

__all__ = ["LOG2_E", "tl", "triton"]
