"""The choice of a backend for a bundle.

`choose` decides which backends may run a bundle, `sdtc.runtime.backends.probe` which of several is the fastest, and
`open_session` opens a session on one graph. Each backend's library is imported only when a session is opened.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from sdtc.core.errors import EngineError, InputError
from sdtc.core.manifest import FLAVOURS, Manifest
from sdtc.runtime.backends.arguments import BACKENDS, DEVICES, PRECISIONS
from sdtc.runtime.backends.session import Session, check_graph


@dataclass(frozen=True)
class Choice:
    """What `choose` decided.

    Attributes:
        backend: the backend; on the CPU ``"auto"`` for the fastest of the installed ones.
        device: ``"cpu"`` or ``"cuda"``.
        notice: a sentence if this is not what the user asked for, else "".
        precision: of the arithmetic on a CPU, independent of the graph's; ``"auto"`` for the fastest.
    """

    backend: str
    device: str
    notice: str = ""
    precision: str = "fp32"


def choose(
    manifest: Manifest,
    wants_plan: bool,
    backend: str = "auto",
    device: str = "auto",
    gpu_problem: str | None = None,
    precision: str = "fp32",
) -> Choice:
    """Decide which backend runs a bundle.

    Args:
        manifest: the bundle's.
        wants_plan: the user named a ``.plan`` file (or a whole bundle that has one).
        backend: one of `BACKENDS`.
        device: one of `DEVICES`.
        gpu_problem: why no GPU is usable, "" if one is; None to find out.
        precision: one of `PRECISIONS`, for a CPU; bf16 and int8 are OpenVINO's.

    Raises:
        InputError: backend and device exclude each other, or are unknown.
        EngineError: a GPU was asked for, and there is none; or the CPU cannot run the bundle.
        MissingExtraError: ONNX Runtime is to run on a GPU, and is not installed.
    """
    for value, allowed, argument in (
        (backend, BACKENDS, "backend"),
        (device, DEVICES, "device"),
        (precision, PRECISIONS, "precision"),
    ):
        if value not in allowed:
            raise InputError(f"`{argument}` is '{value}': expected one of {', '.join(allowed)}")
    if backend in FLAVOURS and device == "cpu":
        raise InputError(f"`backend='{backend}'` runs on a GPU only: leave out `device='cpu'`, or choose onnxruntime")
    if backend == "openvino" and device == "cuda":
        raise InputError("`backend='openvino'` runs on the CPU: leave out `device='cuda'`, or choose onnxruntime")
    if precision in ("bf16", "int8"):
        if device == "cuda" or backend not in ("auto", "openvino"):
            given = f"`backend='{backend}'`" if backend != "auto" else f"`device='{device}'`"
            raise InputError(
                f"`precision='{precision}'` is how OpenVINO computes on the CPU: leave out {given}; for a GPU, export "
                "the bundle in that precision"
            )
        return Choice("openvino", "cpu", precision=precision)
    flavour = manifest.engine.flavour if manifest.engine and manifest.graphs["model"].plan else None
    if backend in FLAVOURS and flavour != backend:
        has = f"its engine is for {flavour}" if flavour else "it has none"
        raise EngineError(f"the bundle has no {backend} engine ({has}): export it with `flavour='{backend}'`")

    def on_cpu(why: str = "") -> Choice:
        only_openvino = manifest.precision == "bf16"
        if only_openvino and (backend == "onnxruntime" or not _is_installed("openvino")):
            raise EngineError(
                f"{why}{'; ' if why else ''}this bundle is bf16, which ONNX Runtime has no CPU kernels for: run it on "
                "a GPU, with `backend='openvino'` (pip install 'sdtc[openvino]'), or export it with `precision='fp32'`"
            )
        notice = f"{why}: running the bundle's ONNX on the CPU" if why else ""
        return Choice("openvino" if only_openvino else backend, "cpu", notice, precision)

    if device == "cpu" or backend == "openvino":
        return on_cpu()

    # An engine runs only if it was named, as a file or as a backend: it never replaces an .onnx that was named.
    if backend == "onnxruntime" or (backend == "auto" and not wants_plan):
        flavour = None
    must_have_gpu = device == "cuda" or backend in FLAVOURS
    if not must_have_gpu and flavour is None and backend == "auto":
        return on_cpu()
    if gpu_problem is None:
        from sdtc.runtime.backends.cuda import gpu_or_reason
        from sdtc.runtime.backends.tensorrt_session import EXTRAS

        gpu_problem = gpu_or_reason(EXTRAS[flavour] if flavour else "gpu")[1]
    if gpu_problem:
        if must_have_gpu:
            raise EngineError(f"{gpu_problem}; use `device='cpu'` to run the bundle's ONNX graph instead")
        if backend == "onnxruntime":
            return on_cpu()
        return on_cpu(f"the engine cannot run here ({gpu_problem})")
    if flavour is not None:  # if it does not fit this GPU or this TensorRT, opening it fails
        return Choice(flavour, "cuda")
    if device == "auto":
        from sdtc.runtime.backends.onnxruntime_session import cuda_problem

        if problem := cuda_problem():
            return on_cpu(f"ONNX Runtime cannot use the GPU ({problem})")
    return Choice("onnxruntime", "cuda")


def open_session(
    manifest: Manifest, directory: Path, choice: Choice, graph: str = "model", threads: int | None = None
) -> Session:
    """Open a session on one graph of a bundle, after checking the file against the manifest.

    Args:
        manifest: the bundle's.
        directory: where its files are.
        choice: from `choose`, without ``"auto"``.
        graph: ``"model"``, ``"encoder"`` or ``"temporal"``.
        threads: CPU threads; all that this process may use if not given.

    Raises:
        BundleError: the file is missing or was changed.
        EngineError: the backend cannot run it, or it is not the graph that the manifest describes.
    """
    session = _open(manifest, directory, choice, graph, threads or available_cpus())
    try:
        check_graph(manifest, graph, session)
    except EngineError:
        session.close()
        raise
    return session


def _open(manifest: Manifest, directory: Path, choice: Choice, graph: str, threads: int) -> Session:
    files = manifest.graphs[graph]
    if choice.backend in FLAVOURS:
        from sdtc.runtime.backends.tensorrt_session import TensorRTSession

        if manifest.engine is None or files.plan is None:
            raise EngineError(f"the bundle has no engine for graph '{graph}': export it again with `plan=True`")
        return TensorRTSession(manifest.verify_file(directory, files.plan), manifest.engine)
    path = manifest.verify_file(directory, files.onnx)
    if choice.backend == "openvino":
        from sdtc.runtime.backends.openvino_session import OpenVINOSession

        return OpenVINOSession(path, threads, choice.precision)
    from sdtc.runtime.backends.onnxruntime_session import OnnxRuntimeSession

    return OnnxRuntimeSession(path, choice.device, threads)


def available_cpus() -> int:
    """Return how many processors this process may use; a container often allows fewer than the machine has."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # a quota of CPU time, as set by Docker's --cpus and Kubernetes' limits
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        count = min(count, max(1, int(quota) // int(period)))
    return count


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None


def cpu_candidates(choice: Choice) -> list[Choice]:
    """List what a choice with ``"auto"`` can stand for on this machine; any other choice is the only candidate.

    Raises:
        MissingExtraError: no CPU backend is installed.
    """
    backends = [choice.backend] if choice.backend != "auto" else ["onnxruntime", "openvino"]
    precisions = [choice.precision] if choice.precision != "auto" else ["fp32", "bf16", "int8"]
    found = [
        replace(choice, backend=backend, precision=precision)
        for backend in backends
        for precision in precisions
        if (backend == "openvino" or precision == "fp32") and (choice.backend == backend or _is_installed(backend))
    ]
    return found or [replace(choice, backend="onnxruntime", precision="fp32")]  # opening it says what to install
