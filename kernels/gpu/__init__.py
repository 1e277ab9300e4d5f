"""The Triton kernels, a module for each operator, and how they are described (`launch`). Importing one needs Triton."""

from sdtc.core.errors import require

require("triton", "kernels", "sdtc.kernels.gpu")
