"""The targets, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz import calls, documents, media, networks, runs
from tests.fuzz.corpus import Corpus
from tests.fuzz.oracle import Case


@dataclass(frozen=True)
class Target:
    """What is fuzzed.

    Attributes:
        name: for the command line.
        run: runs one case; raises what was found.
        prepare: makes the valid input that is kept.
        modules: imported before a child is started.
        may_crash: a library that is given hostile code, such as a graph, may end the process: noted, no failure.
    """

    name: str
    run: Callable[[Case], None]
    prepare: Callable[[Corpus], object] = lambda corpus: None
    modules: tuple[str, ...] = ()
    may_crash: bool = False


_TORCH = ("torch", "sdtc.model")
_ENGINE = ("onnxruntime", "sdtc.runtime.engine", "sdtc.runtime.run")


def _bundle(corpus: Corpus) -> object:
    return corpus.bundle


TARGETS = (
    Target("video", media.video, media.make_videos, ("sdtc.runtime.sources.open",)),
    Target("images", media.images, modules=("sdtc.runtime.sources.open",)),
    Target("boxes", documents.boxes, modules=("sdtc.runtime.people.finder",)),
    Target("annotations", documents.annotations, modules=("sdtc.training.annotations", "sdtc.evaluation.cli")),
    Target("resume", documents.resume, modules=("sdtc.runtime.output.resume",)),
    Target("config", documents.config, modules=("yaml", "sdtc.training.train_config")),
    Target("manifest", networks.manifest, _bundle, ("sdtc.core.manifest", "sdtc.core.kernel_file")),
    Target("bundle", networks.bundle, _bundle, _ENGINE, may_crash=True),
    Target("checkpoint", networks.checkpoint, lambda corpus: corpus.checkpoint, _TORCH),
    Target("calls", calls.engine, _bundle, _ENGINE),
    Target("functions", calls.functions, modules=_ENGINE),
    Target("run", runs.run, lambda corpus: (corpus.bundle, media.make_videos(corpus)), _ENGINE),
)
