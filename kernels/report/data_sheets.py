"""Limits of multiprocessors and peak rates of GPUs, from NVIDIA's documents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Multiprocessor:
    """What limits the number of blocks that one multiprocessor holds (CUDA programming guide, compute capabilities).

    Attributes:
        threads, blocks, registers: of a multiprocessor.
        shared: shared memory of a multiprocessor, bytes.
        reserved: shared memory that the driver takes for each block, bytes.
    """

    threads: int
    blocks: int
    shared: int
    registers: int = 65536
    reserved: int = 1024


MULTIPROCESSORS = {  # by architecture
    75: Multiprocessor(threads=1024, blocks=16, shared=64 << 10, reserved=0),
    80: Multiprocessor(threads=2048, blocks=32, shared=164 << 10),
    86: Multiprocessor(threads=1536, blocks=16, shared=100 << 10),
    89: Multiprocessor(threads=1536, blocks=24, shared=100 << 10),
    90: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    100: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    120: Multiprocessor(threads=1536, blocks=24, shared=100 << 10),
}


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
