"""What a multiprocessor of each architecture holds, and which of its tensor cores Triton uses. Without Triton."""

from __future__ import annotations

from dataclasses import dataclass

MAX_SPILLED = 32  # bytes of a thread: eight registers that are stored and loaded once; beyond, a loop waits for memory


@dataclass(frozen=True)
class Multiprocessor:
    """Limits of an architecture: CUDA C++ programming guide, "Technical Specifications per Compute Capability".

    Attributes:
        threads, blocks, registers: of a multiprocessor.
        shared: shared memory of a multiprocessor, bytes.
        reserved: shared memory that the driver takes for each block, bytes.
    """

    threads: int
    blocks: int
    shared: int
    registers: int = 65536  # a single block may use them all
    reserved: int = 1024

    @property
    def block_shared(self) -> int:
        """Shared memory of one block, bytes: the guide's 64, 163, 99 or 227 KB."""
        return self.shared - self.reserved


MULTIPROCESSORS = {  # by architecture
    75: Multiprocessor(threads=1024, blocks=16, shared=64 << 10, reserved=0),
    80: Multiprocessor(threads=2048, blocks=32, shared=164 << 10),
    86: Multiprocessor(threads=1536, blocks=16, shared=100 << 10),
    89: Multiprocessor(threads=1536, blocks=24, shared=100 << 10),
    90: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    100: Multiprocessor(threads=2048, blocks=32, shared=228 << 10),
    120: Multiprocessor(threads=1536, blocks=24, shared=100 << 10),
}


def has_tensor_cores(architecture: int | None) -> bool:
    """Whether Triton computes on an architecture's tensor cores: not on sm_75's; None is any of those where it does."""
    return architecture is None or architecture >= 80
