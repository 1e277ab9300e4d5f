"""Ahead-of-time compilation: a configured kernel to PTX and a cubin for one architecture. Needs Triton, but no GPU.

TensorRT can embed the result and a driver can load it: the parameters that Triton adds for its own launcher, and that
nobody else passes, are removed from the PTX. Results are cached by a hash of everything that they depend on.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import inspect
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from sdtc.core.errors import KernelError
from sdtc.core.files import atomic_write, cache_folder, make_directory
from sdtc.kernels.common.kernel_launch import ALIGNMENT, Launch
from sdtc.kernels.common.multiprocessors import MAX_SPILLED, MULTIPROCESSORS
from sdtc.kernels.common.with_triton import triton

ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)  # Turing to Blackwell
_SPECIFIC = (90, 100, 120)  # Triton compiles for sm_90a and so on, whose PTX runs on no newer architecture
# The oldest version of PTX that knows an architecture, 8.0 (CUDA 12.0) at least. Drivers refuse PTX that is newer than
# themselves, and Triton would write its own assembler's version.
_PTX_VERSIONS = {100: 86, 120: 87}
HIDDEN_PARAMETERS = 2  # pointers that a cubin takes after its own parameters, and that may be null
_VERSION = 2  # of the processing in this module, part of the cache key


@dataclass(frozen=True)
class Compiled:
    """A kernel for one architecture.

    Attributes:
        name: of the entry function.
        architecture: e.g. 80 for sm_80.
        ptx: takes the parameters that `Launch` names, and no others.
        cubin: as Triton compiles it: takes `HIDDEN_PARAMETERS` more.
        num_warps: warps of a block, of 32 threads each.
        shared: dynamic shared memory of a block, bytes.
        registers: of a thread.
        local: local memory of a thread, bytes; spilled registers go there.
    """

    name: str
    architecture: int
    ptx: str
    cubin: bytes
    num_warps: int
    shared: int
    registers: int
    local: int


def compile_kernel(launch: Launch, architecture: int, cache: Path | None = None) -> Compiled:
    """Compile one kernel, or take it from the cache.

    Args:
        launch: the configured kernel.
        architecture: one of `ARCHITECTURES`, e.g. 80 for sm_80.
        cache: folder of compiled kernels; default: ``kernels`` in the user's cache (`SDTC_CACHE`).

    Returns:
        The compiled kernel.

    Raises:
        KernelError: the architecture is not supported, or the kernel does not compile for it.
        OutputError: the cache cannot be written.
    """
    if architecture not in ARCHITECTURES:
        raise KernelError(f"architecture sm_{architecture} is not supported: expected one of {_listed(ARCHITECTURES)}")
    path = (cache or cache_folder("kernels")) / f"{_key(launch, architecture)}.json"
    cached = _read(path)
    if cached is None:
        cached = _compile(launch, architecture)
        make_directory(path.parent)
        with atomic_write(path) as temporary:
            temporary.write_text(
                json.dumps(asdict(cached) | {"cubin": base64.b64encode(cached.cubin).decode()}), encoding="utf-8"
            )
    return cached


def compile_all(
    work: Sequence[tuple[Launch, int]],
    workers: int | None = None,
    on_done: Callable[[], Any] = lambda: None,
    cache: Path | None = None,
) -> list[Compiled]:
    """Compile many kernels in several processes, or take them from the cache.

    Args:
        work: configured kernels, each with an architecture.
        workers: number of processes; default: one for each core.
        on_done: called after each kernel, for a progress bar.
        cache: as in `compile_kernel`.

    Returns:
        The compiled kernels, in the order of `work`.

    Raises:
        KernelError, OutputError: as in `compile_kernel`.
    """
    cache = cache or cache_folder("kernels")
    cached = [_read(cache / f"{_key(*job)}.json") for job in work]
    missing = [job for job, found in zip(work, cached, strict=True) if found is None]
    for _ in range(len(work) - len(missing)):
        on_done()
    workers = min(workers or len(os.sched_getaffinity(0)), len(missing))
    if workers > 1:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            for task in as_completed([pool.submit(compile_kernel, *job, cache) for job in missing]):
                task.result()
                on_done()
    else:
        for job in missing:
            compile_kernel(*job, cache)
            on_done()
    return [found or compile_kernel(*job, cache) for job, found in zip(work, cached, strict=True)]


def architecture_for(capability: int) -> int:
    """Return the architecture to compile for, so that a GPU can run the PTX: its own, or an older one of its family.

    Args:
        capability: compute capability of the GPU, e.g. 87 for 8.7.

    Raises:
        KernelError: no supported architecture suits the GPU.
    """
    older = [known for known in ARCHITECTURES if known <= capability and known // 10 == capability // 10]
    if not older or (max(older) != capability and max(older) in _SPECIFIC):
        raise KernelError(
            f"sm_{capability} is not supported by the kernels: expected one of {_listed(ARCHITECTURES)}, or a relative"
        )
    return max(older)


def misfit(compiled: Compiled) -> str:
    """Return why a compiled kernel does not fit its architecture, or crawls on it; "" if it fits."""
    limits, name = MULTIPROCESSORS[compiled.architecture], f"sm_{compiled.architecture}"
    threads = 32 * compiled.num_warps
    if compiled.shared > limits.block_shared:
        return f"takes {compiled.shared:,} bytes of shared memory, {name} has {limits.block_shared:,}"
    if threads * compiled.registers > limits.registers:
        return f"takes {compiled.registers} registers in {threads} threads, {name} has {limits.registers:,}"
    if compiled.local > MAX_SPILLED:
        return f"spills {compiled.local:,} bytes a thread on {name}, {MAX_SPILLED} are allowed"
    return ""


def ptx_version(architecture: int) -> int:
    """Return the version of the PTX that is written for an architecture, e.g. 80 for 8.0."""
    return _PTX_VERSIONS.get(architecture, 80)


def supports(architecture: int, dtype: str) -> bool:
    """Whether an architecture supports a dtype: Turing has no bf16."""
    return architecture >= 80 or dtype != "bf16"


def strip_hidden_parameters(ptx: str, count: int) -> str:
    """Remove all parameters of a PTX entry function after the first `count`.

    Raises:
        KernelError: it has fewer parameters, or uses one of those to remove.
    """
    match = re.search(r"(\.visible \.entry \w+\()(.*?)(\n\))", ptx, re.DOTALL)
    parameters = re.findall(r"\.param [^,\n]*", match[2]) if match else []
    if match is None or len(parameters) < count:
        raise KernelError(f"the compiled kernel has {len(parameters)} parameters: expected at least {count}")
    for parameter in parameters[count:]:
        name = parameter.split()[-1]
        if re.search(rf"\b{name}\b", ptx[match.end() :]):
            raise KernelError(f"the compiled kernel uses Triton's own parameter {name}: TensorRT would not pass it")
    kept = ",".join(f"\n\t{parameter}" for parameter in parameters[:count])
    return ptx[: match.start(2)] + kept + ptx[match.end(2) :]


def ptx_parameters(ptx: str) -> list[str]:
    """Return the types of an entry function's parameters, e.g. ``["u64", "u32", "u64"]``."""
    match = re.search(r"\.visible \.entry \w+\((.*?)\n\)", ptx, re.DOTALL)
    return re.findall(r"\.param \.(\w+)", match[1]) if match else []


def _compile(launch: Launch, architecture: int) -> Compiled:
    function = launch.kernel
    if not isinstance(function, triton.JITFunction):
        raise KernelError("TRITON_INTERPRET is set, so that kernels are run but not compiled: unset it first")
    pointers = {**launch.inputs, **launch.outputs}
    signature = {
        name: f"*{pointers[name]}" if name in pointers else "i32" if name in launch.scalars else "constexpr"
        for name in function.arg_names
    }
    attributes = {(function.arg_names.index(name),): [["tt.divisibility", ALIGNMENT]] for name in pointers}
    knobs = triton.knobs
    # Line information would put paths of this machine into the PTX. Fused multiply-adds are set explicitly, because
    # Triton's default is about to change.
    with knobs.compilation.scope():
        knobs.compilation.disable_line_info = True
        try:
            compiled = triton.compile(
                triton.compiler.ASTSource(function, signature, dict(launch.constants), attributes),
                target=triton.backends.compiler.GPUTarget("cuda", architecture, 32),
                options={
                    "num_warps": launch.num_warps,
                    "num_stages": launch.num_stages,
                    "enable_fp_fusion": True,
                    "ptx_version": ptx_version(architecture),
                },
            )
        except Exception as error:  # the compiler raises errors of many types
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise KernelError(
                f"{function.__name__} with {dict(launch.constants)} does not compile for sm_{architecture}: {reason[0]}"
            ) from None
    metadata = compiled.metadata
    registers, local = _resources(compiled.asm["cubin"])
    return Compiled(
        name=metadata.name,
        architecture=architecture,
        ptx=strip_hidden_parameters(compiled.asm["ptx"], len(pointers) + len(launch.scalars)),
        cubin=compiled.asm["cubin"],
        num_warps=metadata.num_warps,
        shared=metadata.shared,
        registers=registers,
        local=local,
    )


def _resources(cubin: bytes) -> tuple[int, int]:
    """Return the registers and the local memory (bytes) of a thread."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        tool = triton.knobs.nvidia.cuobjdump.path
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=False).stdout
    usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text))
    if "REG" not in usage:
        raise KernelError(f"'{tool}' does not report the registers of a compiled kernel: it printed '{text.strip()}'")
    return int(usage["REG"]), int(usage["STACK"]) + int(usage["LOCAL"])


def _read(path: Path) -> Compiled | None:
    """Return an entry of the cache; None if it is missing or damaged."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return Compiled(**data | {"cubin": base64.b64decode(data["cubin"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _key(launch: Launch, architecture: int) -> str:
    """Return the hash of everything that the compiled kernel depends on."""
    content = [
        _VERSION,
        triton.__version__,
        architecture,
        _source(launch.kernel),
        *map(sorted, (launch.inputs.items(), launch.outputs.items(), launch.constants.items())),
        launch.scalars,
        launch.num_warps,
        launch.num_stages,
    ]
    return hashlib.sha256(json.dumps(content, default=str).encode()).hexdigest()[:32]


@functools.cache
def _source(kernel: Any) -> str:
    """Return the source of a kernel's module: the kernel and the functions that it calls."""
    return inspect.getsource(inspect.getmodule(kernel.fn))  # type: ignore[arg-type]


def _listed(architectures: Iterable[int]) -> str:
    return ", ".join(f"sm_{architecture}" for architecture in architectures)
