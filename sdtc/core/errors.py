"""Named errors. Every message says what was given, what was expected and what to do next, in one sentence.

The library speaks of *arguments*, in backticks: "`max_frames` is 0: expected at least 1", "leave out `device='cpu'`". A
command shows them as its options (`sdtc.core.command_line`): "--max-frames is 0 …", "leave out --device cpu".
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from sdtc.core.telemetry import without_telemetry


class SdtcError(Exception):
    """Anything this package refuses or fails at, with a message meant for the user."""

    exit_code = 1


class InputError(SdtcError):
    """An argument, a file or a value from outside is not usable."""

    exit_code = 2


class CheckpointError(InputError):
    """A checkpoint is unreadable, of another model, or does not fit its configuration."""


class ConfigError(InputError):
    """A model configuration is inconsistent or names something that does not exist."""


class BundleError(InputError):
    """An engine bundle is incomplete, damaged, or of a newer schema."""


class KernelError(InputError):
    """A tensor, a shape or an architecture is not one that the kernels take."""


class EngineError(SdtcError):
    """An engine cannot run here: wrong version, wrong GPU, or no GPU at all."""


class VideoError(InputError):
    """A video or an image folder cannot be read."""


class OutputError(SdtcError):
    """A result cannot be written."""


class ExportError(SdtcError):
    """An export failed, or its result differs from the network by more than its tolerance."""


class MissingExtraError(SdtcError, ImportError):
    """An optional dependency is not installed."""


_PACKAGES = {  # installed under another name
    "cuda.bindings.driver": "cuda-python",
    "cuda.bindings.runtime": "cuda-python",
    "faster_coco_eval": "faster-coco-eval",
    "tensorrt_rtx": "tensorrt-rtx",
}


def require(module: str, extra: str, needed_by: str) -> ModuleType:
    """Import an optional dependency, its telemetry turned off, or say which extra to install.

    Args:
        module: name to import, e.g. ``"torch"``.
        extra: the extra of this package that brings it, e.g. ``"export"``.
        needed_by: what asked for it, as a user would call it.

    Raises:
        MissingExtraError: with the `pip install` command to run.
    """
    try:
        with without_telemetry():
            return import_module(module)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the dependency is there but broken: its own message says more than ours
        package = _PACKAGES.get(module, module.split(".")[0])
        raise MissingExtraError(
            f"{needed_by} needs the package '{package}', which is not installed: run  pip install 'sdtc[{extra}]'"
        ) from None
