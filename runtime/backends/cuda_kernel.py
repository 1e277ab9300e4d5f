"""Kernels of a bundle, loaded by the CUDA driver and launched on streams. Needs neither Triton nor torch."""

from __future__ import annotations

import ctypes
from typing import Any

from sdtc.core.errors import EngineError, require
from sdtc.core.kernel_file import SCALARS, KernelCode
from sdtc.runtime.backends.cuda import Stream, explain, use_gpu

# Invalid image, or one for another GPU; invalid PTX, or too new for the driver; PTX compiler missing or disabled.
_UNLOADABLE = (200, 209, 218, 221, 222, 223)


class UnloadableError(EngineError):
    """A bundle's kernel does not load on this GPU, or with its driver."""


class Kernel:
    """One kernel on this process's GPU.

    Args:
        code: from the bundle.

    Raises:
        UnloadableError: neither cubin nor PTX loads on this GPU.
        EngineError: the driver refuses for another reason, e.g. because memory is full.
    """

    def __init__(self, code: KernelCode) -> None:
        driver = _driver()
        self._code = code
        use_gpu()
        self._module, hidden = _load(code)
        self._nulls = (0,) * hidden
        self._types = tuple(ctypes.c_int if name in SCALARS else ctypes.c_void_p for name in code.arguments)
        self._types += (ctypes.c_void_p,) * hidden
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
        code, values = self._code, (*arguments, *self._nulls)
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


def _load(code: KernelCode) -> tuple[Any, int]:
    """Load the first image that the driver takes; return the module, and the null pointers that its function takes."""
    images = code.images()
    for number, (image, hidden) in enumerate(images, 1):
        result = _driver().cuModuleLoadData(image)
        if number == len(images) or result[0].value not in _UNLOADABLE:
            return _check(result), hidden
    raise AssertionError("a kernel without code, which `KernelFile.load` refuses")


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
            raise UnloadableError(
                f"the bundle's kernels do not load on this GPU ({text}): update its driver, or export the checkpoint "
                "again here"
            )
        raise EngineError(explain(status.value, text))
    return values[0] if values else None


def _driver() -> Any:
    return require("cuda.bindings.driver", "gpu", "running kernels on a GPU")
