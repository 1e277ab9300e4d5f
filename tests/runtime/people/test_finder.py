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
