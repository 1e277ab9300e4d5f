"""What the compiled code of a kernel tells: resources, memory accesses, occupancy, and a lower bound of its time."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass

from sdtc.kernels.aot import Compiled
from sdtc.kernels.common.multiprocessors import MULTIPROCESSORS
from sdtc.kernels.report.cases import KernelCase
from sdtc.kernels.report.data_sheets import DATA_SHEETS, DataSheet

BATCH = 32  # windows, of the bounds
_NOP = 0x918
_TENSOR_CORES = r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)"


@dataclass(frozen=True)
class KernelSummary:
    """The report on one kernel for one architecture; the fields are the columns of the CSV file.

    Attributes:
        operator, shape, dtype, tactic: which kernel, see `KernelCase`.
        architecture: e.g. ``"sm_80"``.
        registers: of a thread.
        spilled_bytes: of a thread.
        shared_bytes: of a block.
        loads, stores: instructions that access global memory.
        vector_loads, vector_stores: those of them that move 16 bytes or more.
        tensor_core: tensor-core instructions.
        instructions: machine instructions (SASS) of the kernel, loops counted once.
        blocks_per_sm: blocks that a multiprocessor holds.
        occupancy: share of a multiprocessor's threads that they are.
        compulsory_bytes, unfused_bytes: of one batch element, see `KernelCase`.
        bounds_us: by GPU, the least time for a batch of `BATCH`, µs.
    """

    operator: str
    shape: str
    dtype: str
    tactic: str
    architecture: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    loads: int
    vector_loads: int
    stores: int
    vector_stores: int
    tensor_core: int
    instructions: int
    blocks_per_sm: int
    occupancy: float
    compulsory_bytes: int
    unfused_bytes: int
    bounds_us: dict[str, float]


def describe(case: KernelCase, compiled: Compiled) -> KernelSummary:
    """Summarise a kernel and its compiled code."""
    loads, stores = _accesses(compiled.ptx, "ld"), _accesses(compiled.ptx, "st")
    tensor_core = len(re.findall(_TENSOR_CORES, compiled.ptx))
    blocks, occupancy = residency(compiled)
    return KernelSummary(
        case.operator,
        case.shape,
        case.dtype,
        case.tactic,
        f"sm_{compiled.architecture}",
        compiled.registers,
        compiled.local,
        compiled.shared,
        len(loads),
        sum(bits >= 128 for bits in loads),
        len(stores),
        sum(bits >= 128 for bits in stores),
        tensor_core,
        machine_instructions(compiled.cubin),
        blocks,
        occupancy,
        case.compulsory,
        case.unfused,
        {name: bound(case, gpu, tensor_core > 0) for name, gpu in DATA_SHEETS.items()},
    )


def residency(compiled: Compiled) -> tuple[int, float]:
    """Return the number of blocks that a multiprocessor holds, and the share of its threads that they are."""
    processor = MULTIPROCESSORS[compiled.architecture]
    threads = 32 * compiled.num_warps
    # Registers are allocated to warps in units of 256, shared memory to blocks in units of 128 bytes.
    registers = math.ceil(compiled.registers * 32 / 256) * 256 * compiled.num_warps
    shared = math.ceil((compiled.shared + processor.reserved) / 128) * 128
    blocks = min(
        processor.blocks,
        processor.threads // threads,
        processor.registers // max(registers, 1),
        processor.shared // shared if shared else processor.blocks,
    )
    return blocks, blocks * threads / processor.threads


def bound(case: KernelCase, gpu: DataSheet, tensor_cores: bool) -> float:
    """Return the least time for a batch of `BATCH`, µs: that of memory traffic or arithmetic, whichever is longer."""
    memory = BATCH * case.compulsory / (gpu.bandwidth * 1e3)
    share = case.tensor_share if tensor_cores else 0.0
    arithmetic = BATCH * case.flops * (share / gpu.tensor + (1 - share) / gpu.plain) / 1e6
    return max(memory, arithmetic)


def machine_instructions(cubin: bytes) -> int:
    """Return the number of instructions in a cubin's code, without those that do nothing.

    A cubin is an ELF file. From sm_70 on an instruction takes 16 bytes, and its lowest 12 bits are the operation.
    """
    (table,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<3H", cubin, 58)
    sections = [struct.unpack_from("<2I4Q", cubin, table + size * index) for index in range(count)]
    found = 0
    for name, _, _, _, start, length in sections:
        if cubin.startswith(b".text.", sections[names][4] + name):
            found += sum(word & 0xFFF != _NOP for (word, _) in struct.iter_unpack("<2Q", cubin[start : start + length]))
    return found


def _accesses(ptx: str, kind: str) -> list[int]:
    """Return the width in bits of every instruction that accesses global memory; asynchronous copies are loads."""
    found = re.findall(rf"\b{kind}\.global\S*?(?:\.v(\d))?\.[bufs](\d+)\b", ptx)
    widths = [int(count or 1) * int(bits) for count, bits in found]
    if kind == "ld":
        widths += [
            8 * int(size, 16) for size in re.findall(r"cp\.async\.c[ag]\.shared\.global[^;]*?, 0x([0-9a-f]+)", ptx)
        ]
    return widths
