"""Kernels of a bundle, loaded by the CUDA driver and launched on streams. Needs neither Triton nor torch."""

from __future__ import annotations

import ctypes
from typing import Any

from sdtc.core.errors import EngineError, require
from sdtc.core.kernel_file import SCALARS, KernelCode
from sdtc.runtime.backends.cuda import Stream, explain, use_gpu

# Invalid image, or one for another GPU; invalid PTX, or too new for the driver; PTX compiler missing or disabled.
_UNLOADABLE = (200, 209, 218, 221, 222, 223)


class Kernel:
    """One kernel on this process's GPU.

    Args:
        code: from the bundle.

    Raises:
        EngineError: it does not load on this GPU.
    """

    def __init__(self, code: KernelCode) -> None:
        driver = _driver()
        self._code = code
        self._types = tuple(ctypes.c_int if name in SCALARS else ctypes.c_void_p for name in code.arguments)
        self._types += (ctypes.c_void_p,) * code.hidden
        use_gpu()
        self._module = _check(driver.cuModuleLoadData(code.image()))
        try:
            self._function = _check(driver.cuModuleGetFunction(self._module, code.entry.encode()))
        except BaseException:
            self.close()
            raise

    def launch(self, stream: Stream, items: int, *arguments: int) -> None:
        """Queue a launch.

        Args:
            items: number of crops, or of rows of tokens; with 0 nothing is launched.
            arguments: addresses and sizes, in the order of `KernelCode.arguments`.
        """
        if items == 0:
            return
        code = self._code
        values = (*arguments, *(0,) * code.hidden)
        _check(
            _driver().cuLaunchKernel(
                self._function, items * code.blocks, 1, 1, 32 * code.num_warps, 1, 1, code.shared, stream.handle,
                (values, self._types), 0,
            )
        )  # fmt: skip

    def close(self) -> None:
        if self._module is not None:
            module, self._module = self._module, None
            _check(_driver().cuModuleUnload(module))


def _check(result: tuple[Any, ...]) -> Any:
    """Check and unpack the result of a `cuda.bindings.driver` call.

    Raises:
        EngineError: the call failed.
    """
    status, *values = result
    driver = _driver()
    if status != driver.CUresult.CUDA_SUCCESS:
        known, text = driver.cuGetErrorString(status)
        text = text.decode() if known == driver.CUresult.CUDA_SUCCESS else status.name
        if status.value in _UNLOADABLE:
            raise EngineError(
                f"the bundle's kernels do not load on this GPU ({text}): update its driver, export the checkpoint "
                "again here, or use `device='cpu'`"
            )
        raise EngineError(explain(status.value, text))
    return values[0] if values else None


def _driver() -> Any:
    return require("cuda.bindings.driver", "gpu", "running kernels on a GPU")
