"""Chooses the estimator of a bundle: whole windows, frame by frame, or frame by frame entirely on the GPU."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sdtc.core.kernel_file import KernelCode, KernelFile
from sdtc.core.manifest import FLAVOURS, Manifest
from sdtc.runtime.backends.choice import Choice, available_cpus
from sdtc.runtime.backends.cuda_kernel import UnloadableError
from sdtc.runtime.backends.probe import open_sessions
from sdtc.runtime.backends.session import Session
from sdtc.runtime.backends.tensorrt_session import TensorRTSession
from sdtc.runtime.estimation.device_estimator import DeviceEstimator
from sdtc.runtime.estimation.estimators import Estimator, StreamingEstimator, WindowEstimator
from sdtc.runtime.estimation.timing import StageTimes


@dataclass(frozen=True)
class OpenedEstimator:
    """An estimator with its sessions open.

    Attributes:
        estimator: the caller closes it.
        notice: a sentence if something else runs than was requested, else "".
        measured: a sentence on the backends that were just compared, or "".
    """

    estimator: Estimator
    notice: str
    measured: str


def open_estimator(
    manifest: Manifest, directory: Path, choice: Choice, threads: int | None, exact: bool, times: StageTimes
) -> OpenedEstimator:
    """Open the estimator of a bundle.

    Args:
        manifest: the bundle's.
        directory: the folder of its files.
        choice: of the backend.
        threads: CPU threads; one or all, whichever is faster, if not given.
        exact: run whole windows even if the bundle has the streaming pair of graphs.
        times: stage times to record into.

    Raises:
        BundleError: a file is missing or was changed.
        EngineError: the backend cannot run it.
    """
    notice = choice.notice
    graphs = ("encoder", "temporal") if not exact and _can_stream(manifest, choice) else ("model",)
    with ExitStack() as stack:
        opened = open_sessions(manifest, directory, choice, graphs, threads)
        sessions = [stack.enter_context(session) for session in opened.sessions]
        # Where one thread is the fastest, sources share the processors by running at the same time.
        lanes = max(available_cpus() // opened.threads, 1) if opened.choice.device == "cpu" else 1
        estimator: Estimator
        if len(sessions) == 2:
            estimator, why_on_cpu = streaming_estimator(manifest, directory, sessions[0], sessions[1], times, lanes)
            notice = notice or why_on_cpu
        else:
            estimator = WindowEstimator(manifest, sessions[0], times, lanes)
        stack.pop_all()
    return OpenedEstimator(estimator, notice, opened.measured)


def _can_stream(manifest: Manifest, choice: Choice) -> bool:
    """Whether the bundle has the streaming pair of graphs, in the form that this backend needs."""
    pair = [manifest.graphs[name] for name in ("encoder", "temporal") if name in manifest.graphs]
    return len(pair) == 2 and (choice.backend not in FLAVOURS or all(files.plan for files in pair))


def streaming_estimator(
    manifest: Manifest, directory: Path, encoder: Session, temporal: Session, times: StageTimes, lanes: int = 1
) -> tuple[Estimator, str]:
    """Open a streaming estimator: entirely on the GPU if there are engines and kernels for it, else partly on the CPU.

    Args:
        manifest: the bundle's.
        directory: the folder of its files.
        encoder, temporal: sessions of the streaming pair.
        times: stage times to record into.
        lanes: how many batches may run at the same time on the CPU.

    Returns:
        The estimator, and a sentence if engines run on a GPU but the rest does not, else "".

    Raises:
        BundleError: the kernels' file is damaged.
        EngineError: the engines do not fit the manifest, or the GPU's memory is full.
    """
    reason = ""
    if isinstance(encoder, TensorRTSession) and isinstance(temporal, TensorRTSession):
        kernels: Mapping[str, Mapping[str, KernelCode]] = {}
        if manifest.kernels:
            kernels = KernelFile.load(manifest.verify_file(directory, manifest.kernels), manifest).kernels
        capability = encoder.gpu.compute_capability
        reason = (
            f"the bundle has no kernels for compute capability {capability}: export it again with the extra 'kernels' "
            "installed"
        )
        if capability in kernels:
            try:
                return DeviceEstimator(manifest, encoder, temporal, kernels[capability], times), ""
            except UnloadableError as error:
                reason = str(error)
        reason = f"crops are cut on the CPU, since {reason}"
    return StreamingEstimator(manifest, encoder, temporal, times, lanes), reason
