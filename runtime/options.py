"""The options of an engine, of a run over a source, and of a run that writes files. Each checks its values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sdtc.core.errors import InputError
from sdtc.runtime.check import check_flag, check_number, check_path, check_type, check_whole
from sdtc.runtime.output.writers import check_format

if TYPE_CHECKING:
    from sdtc.core.boxes import BoxFile
    from sdtc.runtime.output.resume import Progress
    from sdtc.runtime.people.detection import Detector

MAX_DETECT_EVERY = 1.0  # seconds; further ahead, where people go cannot be extrapolated


def _check_detect_every(boxes: object, detect_every: float) -> None:
    meaning = (
        f"seconds between detections, 0 (every frame) to {MAX_DETECT_EVERY:g}; 0.2 is every fifth frame of a video of "
        "25 a second"
    )
    if detect_every is None:  # which `check_number` takes for a default
        raise InputError(f"`detect_every` is None: expected {meaning}")
    check_number("detect_every", detect_every, 0, MAX_DETECT_EVERY, meaning)
    if boxes is not None and detect_every > 0:
        raise InputError("`detect_every` is for detectors: with `boxes` every frame has its own")


@dataclass(frozen=True)
class EngineOptions:
    """How a bundle is run.

    Attributes:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        backend: one of `sdtc.runtime.backends.arguments.BACKENDS`; ``"auto"`` measures once which of the
            installed ones is the fastest here.
        precision: of the arithmetic on a CPU: ``"fp32"``, ``"bf16"`` or ``"int8"`` (OpenVINO, on processors that
            support them), or ``"auto"`` for the fastest.
        threads: CPU threads; by default one or all that this process may use, whichever is faster.
        exact: run whole windows, all frames cropped with the keyframe's boxes, as in the paper. By default every person
            is encoded once in every frame, in the box of that frame, and windows are resampled from that.

    Raises:
        InputError: a value is out of range.
    """

    device: str = "auto"
    backend: str = "auto"
    precision: str = "fp32"
    threads: int | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        check_whole("threads", self.threads, 1)
        check_flag("exact", self.exact)


@dataclass(frozen=True)
class TrackOptions:
    """How an engine runs over one source.

    Attributes:
        boxes: JSON file of person boxes; no detector is used then.
        detector: ``"hog"``, the path of an ONNX detector, or any object with ``detect(image)``.
        detect_every: seconds between detections, up to `MAX_DETECT_EVERY`; in between, tracks are extrapolated. 0 is
            every frame.
        batch_size: people per batch; the bundle's maximum if not given. Of sources that share a batch the smallest
            counts.
        max_frames: stop after this many frames.
        lookahead: frames to wait for after a keyframe, 0 to δ; δ, as in the paper, if not given. Frames of the window
            that have not arrived yet are replaced by the newest one.
        resume_from: how far an earlier run got. The frames before that are decoded, but not estimated or yielded.

    Raises:
        InputError: a value is out of range, or two exclude each other.
    """

    boxes: str | Path | BoxFile | None = None
    detector: str | Detector = "hog"
    detect_every: float = 0.0
    batch_size: int | None = None
    max_frames: int | None = None
    lookahead: int | None = None
    resume_from: Progress | None = None

    def __post_init__(self) -> None:
        for name in ("max_frames", "batch_size"):
            check_whole(name, getattr(self, name), 1)
        check_whole("lookahead", self.lookahead, 0)
        if self.boxes is not None and not hasattr(self.boxes, "by_image"):
            check_path("boxes", self.boxes)
        _check_detect_every(self.boxes, self.detect_every)

    def check_lookahead(self, delta: int) -> None:
        """Check the look-ahead against the model's δ.

        Raises:
            InputError: it is larger than δ.
        """
        if self.lookahead is not None and self.lookahead > delta:
            raise InputError(
                f"`lookahead` is {self.lookahead}: expected 0 to {delta}, this model's delta; its windows have no "
                "frames beyond that"
            )


@dataclass(frozen=True)
class RunOptions:
    """How inputs are run, and which files are written.

    Attributes:
        output: folder of the results; created.
        format: one of `sdtc.runtime.output.writers.FORMATS`; by default ``"posetrack"`` for PoseTrack's joints and
            ``"coco"`` for COCO's.
        resume: continue after the last complete line of an interrupted run's JSON lines.
        save_video: also write an overlay video, H.264 in MP4.
        min_score: draw only keypoints with at least this score, 0-1.
        smooth: smooth the poses, see `sdtc.runtime.output.smoothing`.
        boxes: JSON file of person boxes, or a folder with a file named like each input.
        detector_layout: output layout of an ONNX detector, if it is not recognised.
        person_class: class number of people in an ONNX detector.
        drop_late: live input: drop frames that arrive faster than they are processed; the newest is kept.
        reconnect: live input: how long to try to reconnect to a lost camera or stream, seconds; 30 if not given.
        jobs: how many files are worked on at the same time; one for each processor, at most 4, if not given. Live
            inputs run all at once, beside the files.
        track: how the engine runs over each input; without `boxes` and `resume_from`, which the run sets itself.

    Raises:
        InputError: a value is out of range, or two exclude each other.
    """

    output: Path = Path("poses")  # text is taken too
    format: str | None = None
    resume: bool = False
    save_video: bool = False
    min_score: float = 0.2
    smooth: bool = False
    boxes: Path | None = None  # text is taken too
    detector_layout: str | None = None
    person_class: int | None = None
    drop_late: bool = False
    reconnect: float | None = None
    jobs: int | None = None
    track: TrackOptions = field(default_factory=TrackOptions)

    def __post_init__(self) -> None:
        for name in ("output", "boxes"):
            value = getattr(self, name)
            if value is not None or name == "output":
                check_path(name, value)
                object.__setattr__(self, name, Path(value))
        for name in ("resume", "save_video", "smooth", "drop_late"):
            check_flag(name, getattr(self, name))
        check_type("track", self.track, TrackOptions)
        if self.track.boxes is not None or self.track.resume_from is not None:
            raise InputError(
                "`track` has boxes, or a part that is done, for one source: give `boxes` and `resume` of RunOptions, "
                "which are for all inputs"
            )
        if self.format is not None:
            check_format(self.format)
        check_number("min_score", self.min_score, 0, 1, "a score from 0 to 1")
        check_number("reconnect", self.reconnect, 0, math.inf, "seconds, or 0 for never")
        check_whole("person_class", self.person_class, 0)
        check_whole("jobs", self.jobs, 1)
        _check_detect_every(self.boxes, self.track.detect_every)
        if self.resume and self.format != "jsonl":
            raise InputError(
                "`resume=True` needs `format='jsonl'`: an interrupted run in another format leaves nothing to continue"
            )
        if self.resume and self.save_video:
            raise InputError("`resume=True` cannot continue half a video: leave out `save_video`, or `resume`")
        given = self.detector_layout is not None or self.person_class is not None
        if given and (self.boxes is not None or self.track.detector == "hog"):
            raise InputError(
                "`detector_layout` and `person_class` belong to an ONNX detector: add `detector='MODEL.onnx'`"
            )
