"""Who is in a frame: boxes of files and of detectors, and their track ids."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from sdtc.core.errors import InputError
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.resume import Progress
from sdtc.runtime.people.finder import PeopleFinder
from sdtc.runtime.people.tracking import Tracker
from sdtc.runtime.sources.base import Frame, FrameSource


class Blank(FrameSource):
    """Grey frames of 200x100 pixels; a header that may be wrong."""

    def __init__(self, count: int, says: int | None, names: Sequence[str] | None = None, name: str = "clip") -> None:
        self.path, self.name, self.fps, self.num_frames, self.problems = Path(name), name, 25.0, says, []
        self.count = count
        self.listing = None if names is None else list(enumerate(names))

    def __iter__(self) -> Iterator[Frame]:
        image = np.full((100, 200, 3), 70, np.uint8)
        for index in range(self.count):
            name = None if self.listing is None else self.listing[index][1]
            yield Frame(index, index, name, image, time=index / self.fps)


def boxes_of(tmp_path: Path, *frames: dict[int | None, list[float]], first: int = 0) -> Path:
    """Write boxes by track id, frame by frame."""
    entries = [
        {"image_id": image, "bbox": box, "score": 0.9} | ({} if track is None else {"track_id": track})
        for image, people in enumerate(frames, start=first)
        for track, box in people.items()
    ]
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    return tmp_path / "boxes.json"


def ids_of(source: FrameSource, boxes: Path, tracker: Tracker | None = None, skip: int = 0) -> list[list[int]]:
    finder = PeopleFinder(source, boxes, "hog", Tracker() if tracker is None else tracker)
    ids = [finder.find(frame).track_ids.tolist() for frame in source if frame.index >= skip]
    finder.check_end(len(ids) + skip)
    return ids


LEFT, RIGHT = [10.0, 10.0, 40.0, 80.0], [120.0, 10.0, 40.0, 80.0]


def test_ids_of_the_file_are_kept(tmp_path: Path) -> None:
    path = boxes_of(tmp_path, {7: LEFT, 0: RIGHT}, {0: LEFT, 7: RIGHT})  # they changed places
    assert ids_of(Blank(2, 2), path) == [[7, 0], [0, 7]]


def test_ids_of_file_and_tracker_are_never_mixed(tmp_path: Path) -> None:
    """Frame 1 lacks an id: there the tracker would call the one on the left 0, whom the file calls 1."""
    path = boxes_of(tmp_path, {1: LEFT, 0: RIGHT}, {None: LEFT, 0: RIGHT}, {1: LEFT, 0: RIGHT})
    assert ids_of(Blank(3, 3), path) == [[0, 1]] * 3


def test_resumed_runs_have_no_collision(tmp_path: Path) -> None:
    path = boxes_of(tmp_path, {1: LEFT}, {None: LEFT}, {0: RIGHT})
    done = Progress(1, 0, False, 6, [FrameResult(0, 0, None, 0, None, [])])
    assert ids_of(Blank(3, 3), path, done.make_tracker(), skip=1) == [[6], [7]]


@pytest.mark.parametrize("says", [0, 5, 9, 5000, None])
def test_the_header_of_a_video_is_not_believed(tmp_path: Path, says: int | None) -> None:
    path = boxes_of(tmp_path, *[{None: LEFT}] * 10)
    assert ids_of(Blank(10, says), path) == [[0]] * 10


@pytest.mark.parametrize("says", [0, 10, 5000, None])
def test_boxes_beyond_the_last_frame_are_found_at_the_end(tmp_path: Path, says: int | None) -> None:
    path = boxes_of(tmp_path, *[{None: LEFT}] * 12)
    with pytest.raises(InputError, match="2 frames of 'clip' that do not exist, the first 10"):
        ids_of(Blank(10, says), path)


def test_boxes_of_something_else_are_refused_at_once(tmp_path: Path) -> None:
    path = boxes_of(tmp_path, {None: LEFT}, first=10128340000)
    with pytest.raises(InputError, match="no boxes for 'clip': its image ids begin with 10128340000, this input's"):
        PeopleFinder(Blank(10, None), path, "hog", Tracker())
    path = boxes_of(tmp_path, *[{None: LEFT}] * 12)
    with pytest.raises(InputError, match="2 frames of 'clip' that do not exist, the first 10: this input has no such"):
        PeopleFinder(Blank(10, 10, [f"{n:06d}.jpg" for n in range(10)]), path, "hog", Tracker())


class OneImage(Blank):
    """An image of a sequence, which has a name of its own."""

    sequence = "012834_mpii_test"  # type: ignore[assignment]


def test_an_image_belongs_to_its_sequence(tmp_path: Path) -> None:
    """By its own name, six digits, it would be a sequence itself."""
    source = OneImage(1, 1, ["000000.jpg"], name="000000")
    (frame,) = source
    path = boxes_of(tmp_path, {4: LEFT}, first=10128340000)
    people = PeopleFinder(source, path, "hog", Tracker()).find(frame)
    assert (people.image_id, people.boxes.tolist(), people.track_ids.tolist()) == (10128340000, [LEFT], [4])
    assert PeopleFinder(source, None, Answers(([], [])), Tracker()).find(frame).image_id == 10128340000  # type: ignore[arg-type]


class Answers:
    """A detector of one's own that returns what it is told."""

    def __init__(self, found: object) -> None:
        self.found = found

    def detect(self, frame: np.ndarray) -> object:
        return self.found


def test_a_detector_of_ones_own_is_checked_frame_by_frame() -> None:
    (frame,) = Blank(1, 1)
    finder = PeopleFinder(Blank(1, 1), None, Answers(([LEFT, RIGHT], [1, 0.5])), Tracker())  # type: ignore[arg-type]
    people = finder.find(frame)
    assert (people.boxes.tolist(), people.track_ids.tolist()) == ([LEFT, RIGHT], [0, 1])
    finder = PeopleFinder(Blank(1, 1), None, Answers(None), Tracker())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"the detector's detect\(frame\) returned NoneType"):
        finder.find(frame)
    with pytest.raises(InputError, match="`detector` is of type float"):
        PeopleFinder(Blank(1, 1), None, 0.5, Tracker())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no detector file"):
        PeopleFinder(Blank(1, 1), None, Path("absent.onnx"), Tracker())


# --- detections in between ----------------------------------------------------------------------------------------


def searched(times: Sequence[float], every: float, missing: Sequence[int] = ()) -> list[int]:
    """Return which of some frames, at `times`, the detector runs on."""
    image, found = np.zeros((100, 200, 3), np.uint8), []

    class Counting:
        def detect(self, frame: np.ndarray) -> object:
            found.append(index)
            return [LEFT], [0.9]

    finder = PeopleFinder(Blank(0, 0), None, Counting(), Tracker(), every)  # type: ignore[arg-type]
    for index, time in enumerate(times):
        people = finder.find(Frame(index, index, None, None if index in missing else image, time=time))
        assert len(people.boxes) == (index not in missing)
    return found


@pytest.mark.parametrize(
    ("fps", "every", "k"),
    [
        *((25, 0.2, 5), (25, 0.04, 1), (25, 0.08, 2), (25, 1.0, 25), (30, 0.1, 3), (30, 0.2, 6), (50, 1.0, 50)),
        *((5, 0.2, 1), (10, 0, 1), (240, 0, 1)),
    ],
)
@pytest.mark.parametrize("digits", [3, 17])
def test_every_kth_frame_without_drift(fps: int, every: float, k: int, digits: int) -> None:
    """Also where containers round their time stamps to milliseconds and the first frame is not at 0."""
    count = 1200
    for first in (0.0, 1.0 / 3):
        times = [round(first + index / fps, digits) for index in range(count)]
        assert searched(times, every) == list(range(0, count, k))


@pytest.mark.parametrize("every", [0.1, 0.25, 0.3, 0.7])
@pytest.mark.parametrize("fps", [12, 23.976, 29.97, 60])
def test_detections_come_as_often_as_is_asked_for(fps: float, every: float) -> None:
    """Where no frame is due exactly, it is the next one, and the next detection comes so much sooner."""
    found = np.array(searched(np.arange(int(fps * 100)) / fps, every)) / fps
    assert len(found) == pytest.approx(100 / every, rel=0.01 if every * fps > 2 else 0.1)
    assert np.diff(found).min() >= every / 2
    assert np.diff(found).max() < every + 1 / fps


def test_after_a_pause_the_next_frame_is_searched_and_then_as_before() -> None:
    times = [0.0, 0.04, 0.08, 5.0, 5.04, 5.16, 5.2, 5.24, 5.28]
    assert searched(times, 0.2) == [0, 3, 6]
    assert searched([0.0, 0.39, 0.43, 0.59], 0.2) == [0, 1, 3]  # not twice within 0.04 s
    assert searched([0.0, 0.15, 0.3, 0.45, 0.6], 0.1) == [0, 1, 2, 3, 4]  # frames are further apart than detections
    assert searched([0.0, 0.0, 0.0, 0.2, 0.2, 0.2001], 0.2) == [0, 3]  # held up, all at once
    assert searched([0.0, 0.0, 0.0], 0) == [0, 1, 2]
    assert searched([0.0, 0.2, 0.24, 0.4], 0.2, missing=[1]) == [0, 2, 3]  # nothing to search in


def test_resumed_detections_keep_step() -> None:
    times = np.cumsum([0.0] + [0.02, 0.1, 0.04, 0.03] * 10)
    image, found = np.zeros((100, 200, 3), np.uint8), []

    class Counting:
        def detect(self, frame: np.ndarray) -> object:
            found.append(index)
            return [LEFT], [0.9]

    for done in range(len(times)):
        found.clear()
        finder = PeopleFinder(Blank(0, 0), None, Counting(), Tracker(), 0.2)  # type: ignore[arg-type]
        for index, time in enumerate(times):
            frame = Frame(index, index, None, image, time=time)
            finder.pass_over(frame) if index < done else finder.find(frame)
        assert found == [index for index in searched(times.tolist(), 0.2) if index >= done]
