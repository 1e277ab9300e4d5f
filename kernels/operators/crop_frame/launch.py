"""The launch of the crop kernel. Needs Triton."""

from __future__ import annotations

from torch import Tensor

from sdtc.core.errors import KernelError
from sdtc.kernels.common.kernel_launch import Launch, check_range, check_tactic, check_tensor, dtype_name
from sdtc.kernels.operators.crop_frame.triton_kernel import crop_frame_block

TACTICS = ("block",)
PIXELS = 256  # of a block
MAX_SIZE = 1024


def configure(size: tuple[int, int], tactic: str = "") -> Launch:
    """Configure the launch for one frame ``[H_image, W_image, 3]`` and N matrices ``[N, 2, 3]``.

    Args:
        size: (H, W) of a crop.
        tactic: ``"block"``, the only one, or empty.

    Returns:
        The launch; its batch is N.

    Raises:
        KernelError: the crop is too large.
    """
    H, W = size
    check_tactic("crop_frame", tactic, TACTICS)
    check_range("crop_frame", "H", H, 1, MAX_SIZE)
    check_range("crop_frame", "W", W, 1, MAX_SIZE)
    return Launch(
        crop_frame_block,
        {"frame": "u8", "matrices": "fp64"},
        {"crops": "u8"},
        {"H": H, "W": W, "BLOCK": PIXELS},
        items=(H * W + PIXELS - 1) // PIXELS,
        scalars=("frame_height", "frame_width"),
    )


def run(frame: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Launch the kernel: cut N crops out of a frame.

    Args:
        frame: uint8 ``[H_image, W_image, 3]``.
        matrices: float64 ``[N, 2, 3]``, from `sdtc.core.crops.crop_to_image_matrix`.
        size: (H, W) of a crop.

    Returns:
        uint8 ``[N, H, W, 3]``.

    Raises:
        KernelError: the kernel does not take the tensors' device, dtype, number of axes, memory layout or size.
    """
    name = "crop_frame"
    check_tensor(name, "frame", frame, "[H, W, 3]")
    check_tensor(name, "matrices", matrices, "[N, 2, 3]")
    dtype_name(frame.dtype, name, ("u8",))
    dtype_name(matrices.dtype, name, ("fp64",))
    if frame.device != matrices.device:
        raise KernelError(
            f"{name}: `frame` is on {frame.device}, `matrices` is on {matrices.device}: expected one device"
        )
    if frame.shape[2] != 3 or matrices.shape[1:] != (2, 3):
        raise KernelError(
            f"{name}: `frame` is {list(frame.shape)} and `matrices` is {list(matrices.shape)}: expected [H, W, 3] and "
            "[N, 2, 3]"
        )
    crops = frame.new_empty((len(matrices), *size, 3))
    height, width, _ = frame.shape
    configure(size).run([frame, matrices], [crops], len(matrices), frame_height=height, frame_width=width)
    return crops
