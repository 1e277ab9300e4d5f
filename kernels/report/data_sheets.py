"""Peak rates of GPUs, from NVIDIA's documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSheet:
    """Peak rates of a GPU.

    Attributes:
        bandwidth: of its memory, GB/s.
        tensor: dense fp16 or bf16 products on tensor cores, TFLOP/s.
        plain: fp32 on the ordinary cores, TFLOP/s.
    """

    bandwidth: float
    tensor: float
    plain: float


DATA_SHEETS = {
    "A100": DataSheet(2039, 312, 19.5),
    "H100": DataSheet(3350, 989, 66.9),
    "L4": DataSheet(300, 121, 30.3),
    "RTX 4090": DataSheet(1008, 165, 82.6),
    "Orin": DataSheet(205, 43, 5.3),
}
