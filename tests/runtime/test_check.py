"""What callers of the Python API pass by mistake: a sentence each, and never the previous call's poses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sdtc.runtime
from sdtc.core.crops import crop_frame
from sdtc.core.errors import InputError
from sdtc.runtime.check import check_boxes
from sdtc.runtime.options import EngineOptions, RunOptions, TrackOptions

RNG = np.random.default_rng(0)
IMAGE = cv2.resize(RNG.integers(0, 256, (15, 20, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)
BOX = np.array([[30.0, 20, 60, 80]])


@pytest.fixture(scope="module", params=[False, True], ids=["frame by frame", "whole windows"])
def engine(request, tiny_bundle):
    options = EngineOptions(backend="onnxruntime", threads=1, exact=request.param)
    with sdtc.runtime.open(tiny_bundle / "model.onnx", options) as engine:
        yield engine


class OnGpu:
    """An array that says that it is on a GPU."""

    __cuda_array_interface__ = {"shape": (120, 160, 3), "typestr": "|u1", "data": (0, False), "version": 3}  # noqa: RUF012


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        ([IMAGE], r"`images` holds 1 frame: expected 5, the keyframe in the middle"),
        ([IMAGE] * 4, r"holds 4 frames: expected 5"),
        ([], r"holds 0 frames"),
        (IMAGE, r"`images` is one array uint8 \[120, 160, 3\]: expected a list of 5 frames"),
        (None, r"`images` is None: expected a list"),
        ("clip.mp4", r"`images` is 'clip.mp4': expected a list"),
        ([IMAGE[..., 0]] * 5, r"frame 0 of `images` is uint8 \[120, 160\]: expected uint8 \[H, W, 3\] RGB"),
        ([IMAGE[..., :1]] * 5, r"frame 0 of `images` is uint8 \[120, 160, 1\]"),
        ([np.dstack([IMAGE, IMAGE[..., :1]])] * 5, r"frame 0 of `images` is uint8 \[120, 160, 4\]"),
        ([IMAGE / 255.0] * 5, r"frame 0 of `images` is float64 \[120, 160, 3\]"),
        ([IMAGE.astype(np.uint16)] * 5, r"frame 0 of `images` is uint16"),
        ([IMAGE] * 4 + [IMAGE.astype(np.int8)], r"frame 4 of `images` is int8"),
        ([IMAGE.transpose(2, 0, 1)] * 5, r"frame 0 of `images` is uint8 \[3, 120, 160\]"),
        ([IMAGE] * 2 + [None] + [IMAGE] * 2, r"frame 2 of `images` is None: .* was its file read"),
        ([IMAGE.tolist()] * 5, r"frame 0 of `images` is a list"),
        ([IMAGE[:0]] * 5, r"frame 0 of `images` is uint8 \[0, 160, 3\]"),
        ([np.broadcast_to(IMAGE[:1, :1], (1, 40_000, 3))] * 5, r"expected sides of at most 32,767 pixels"),
        ([IMAGE] * 4 + [IMAGE[:100]], r"frame 4 of `images` is 160x100 pixels, the keyframe 160x120"),
        ([OnGpu()] * 5, r"frame 0 of `images` is on a GPU"),
    ],
)
def test_frames_that_are_none(engine, images, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        engine.estimate(images, BOX)


@pytest.mark.parametrize(
    ("boxes", "sentence"),
    [
        (BOX[0], r"`boxes` has the shape \[4\]: expected \[P, 4\]: x, y, width, height; for one person, \[\["),
        (np.append(BOX, [[0.9]], axis=1), r"`boxes` has the shape \[1, 5\]"),
        (BOX[None], r"`boxes` has the shape \[1, 1, 4\]"),
        (None, r"`boxes` (is None|has the shape \[\])"),
        ("all", r"`boxes` is 'all': expected numbers"),
        ([[1, 2, 3], [1, 2, 3, 4]], r"`boxes` is a list: expected numbers"),
        ([[1, 2, 3, None]], r"box 0 of `boxes` is .*nan"),
        ([[1, np.nan, 3, 4]], r"box 0 of `boxes` is \[1.0, nan, 3.0, 4.0\]: expected x, y, width, height, finite"),
        ([[1, 1, np.inf, 4]], r"box 0 of `boxes`"),
        ([[30, 20, 60, 80], [50, 40, -60, -150]], r"box 1 of `boxes` is \[50.0, 40.0, -60.0, -150.0\]"),
        ([[50, 40, 0, 10]], r"with an area"),
        ([[1e9, 1e9, 60, 150]], r"at most 1,000,000 pixels"),
        ([[200, 20, 60, 80]], r"expected a box that overlaps the 160x120 frame"),
        ([[-60, 20, 60, 80]], r"expected a box that overlaps"),
        (np.array([[1 + 2j, 0, 5, 5]]), r"`boxes` is an array complex128 \[1, 4\]"),
    ],
)
def test_boxes_that_are_none(engine, boxes, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        engine.estimate([IMAGE] * 5, boxes)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "4", True, float("nan")])
def test_batch_sizes_that_are_none(engine, batch_size) -> None:
    with pytest.raises(InputError, match=r"`batch_size` is .*: expected"):
        engine.estimate([IMAGE] * 5, BOX, batch_size=batch_size)


def test_what_is_unusual_but_means_one_thing(engine) -> None:
    want = engine.estimate([IMAGE] * 5, BOX)
    same = {
        "a list of boxes": ([IMAGE] * 5, BOX.tolist()),
        "whole numbers": ([IMAGE] * 5, BOX.astype(int)),
        "a tuple of frames": ((IMAGE,) * 5, BOX),
        "one array of all frames": (np.stack([IMAGE] * 5), BOX),
        "a view of BGR": ([IMAGE[..., ::-1].copy()[..., ::-1]] * 5, BOX),
        "a mirrored view": ([IMAGE[:, ::-1].copy()[:, ::-1]] * 5, BOX),
        "columns first": ([np.asfortranarray(IMAGE)] * 5, BOX),
        "read only": ([np.broadcast_to(IMAGE, IMAGE.shape)] * 5, BOX),
    }
    for name, (images, boxes) in same.items():
        np.testing.assert_allclose(engine.estimate(images, boxes), want, atol=1e-3, err_msg=name)
    for nobody in ([], np.zeros((0, 4)), ()):
        assert engine.estimate([IMAGE] * 5, nobody).shape == (0, 15, 3)
    np.testing.assert_array_equal(engine.estimate([IMAGE] * 5, BOX, batch_size=np.int64(3)), want)


def test_frames_of_one_array_are_not_confused(engine) -> None:
    """Views are told apart although Python may give their addresses to the next view."""
    clip = np.stack([np.roll(IMAGE, 7 * t, axis=1) for t in range(5)])
    np.testing.assert_array_equal(engine.estimate(clip, BOX), engine.estimate(list(clip), BOX))


@pytest.mark.parametrize("image", [IMAGE[..., 0], IMAGE / 255.0, np.dstack([IMAGE, IMAGE[..., :1]])])
def test_a_crop_never_leaves_the_buffer_as_it_was(image) -> None:
    """OpenCV replaces a `dst` of another type by an array of its own, and the caller's stays as it was."""
    out = np.full((64, 48, 3), 7, np.uint8)
    with pytest.raises(InputError, match=r"a frame is .*: expected uint8 \[H, W, 3\]"):
        crop_frame(image, BOX[0], (64, 48), out=out)
    cropped = crop_frame(IMAGE, BOX[0], (64, 48), out=out)
    assert cropped is out
    assert (out != 7).any()


def test_people_of_an_anamorphic_frame_are_seen_as_they_are(engine) -> None:
    """The same picture, stored with pixels twice as wide as high: the same poses, in stored pixels."""
    small = cv2.resize(IMAGE, (80, 60), interpolation=cv2.INTER_AREA)
    wide = cv2.resize(small, (160, 60), interpolation=cv2.INTER_LINEAR)
    squeezed = small
    box = np.array([[20.0, 5, 80, 50]])  # in the wide picture
    want = engine.estimate([wide] * 5, box)
    got = engine.estimate([squeezed] * 5, box * [0.5, 1, 0.5, 1], pixel_aspect=2.0)
    # Pixel centres of the two pictures are half a pixel apart, and one of them is interpolated.
    np.testing.assert_allclose(got[..., 0] * 2, want[..., 0], atol=3)
    np.testing.assert_allclose(got[..., 1], want[..., 1], atol=2)
    with pytest.raises(InputError, match=r"`pixel_aspect` is 0: expected a ratio"):
        engine.estimate([IMAGE] * 5, BOX, pixel_aspect=0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: TrackOptions(max_frames=0), "`max_frames` is 0: expected at least 1"),
        (lambda: TrackOptions(max_frames=2.5), "`max_frames` is 2.5: expected a whole number"),
        (lambda: TrackOptions(batch_size=-1), "`batch_size` is -1"),
        (lambda: TrackOptions(detect_every="0.2"), "`detect_every` is '0.2': expected seconds between detections"),
        (lambda: TrackOptions(detect_every=5), r"is 5: expected seconds .*; 0.2 is every fifth frame of a video of 25"),
        (lambda: TrackOptions(detect_every=-0.2), r"`detect_every` is -0.2: expected seconds between detections, 0 \("),
        (lambda: TrackOptions(detect_every=float("nan")), "`detect_every` is nan: expected seconds"),
        (lambda: TrackOptions(detect_every=None), "`detect_every` is None: expected seconds"),
        (lambda: TrackOptions(detect_every=True), "`detect_every` is True: expected seconds"),
        (lambda: TrackOptions(lookahead=-1), "`lookahead` is -1: expected at least 0"),
        (lambda: EngineOptions(threads=True), "`threads` is True: expected a whole number"),
        (lambda: RunOptions(min_score=float("nan")), "`min_score` is nan: expected a score from 0 to 1"),
        (lambda: RunOptions(reconnect=-1), "`reconnect` is -1: expected seconds"),
        (lambda: EngineOptions(exact="no"), "`exact` is 'no': expected True or False"),
        (lambda: RunOptions(save_video="no"), "`save_video` is 'no': expected True or False"),
        (lambda: RunOptions(output=None), "`output` is None: expected a path"),
        (lambda: RunOptions(boxes=5), "`boxes` is 5: expected a path"),
        (lambda: TrackOptions(boxes=""), "`boxes` is '': expected a path"),
        (lambda: RunOptions(track={}), "`track` is of type dict: expected TrackOptions"),
        (lambda: RunOptions(track=TrackOptions(boxes="b.json")), "`track` has boxes, .*: give `boxes`"),
        (lambda: sdtc.runtime.open(None), "`path` is None: expected a path"),
        (lambda: sdtc.runtime.open("model.plan\0"), "`path` is 'model.plan.*: expected a path"),
        (lambda: sdtc.runtime.open("x", TrackOptions()), "`options` is of type TrackOptions: expected EngineOptions"),
        (lambda: sdtc.runtime.open("x" * 300), "engine 'x*' cannot be read: File name too long"),
    ],
)
def test_options_of_wrong_types_and_values(make, sentence) -> None:
    with pytest.raises(InputError, match=sentence):
        make()


def test_sources_and_options_of_wrong_types(engine) -> None:
    for source in (None, ["v.mp4"], b"v.mp4", IMAGE, ""):
        with pytest.raises(InputError, match=r"`source` is .*: expected a path"):
            next(engine.track(source))
    with pytest.raises(InputError, match="`options` is of type dict: expected TrackOptions"):
        next(engine.track("v.mp4", {"max_frames": 1}))
    for source in (None, b"v.mp4", IMAGE, "", ["v.mp4", None], [["v.mp4"]], {"v.mp4"}):
        with pytest.raises(InputError, match=r"`source` is .*: expected a path"):
            sdtc.runtime.run_inputs(engine, source)
    with pytest.raises(InputError, match="`source` is empty: expected at least one path"):
        sdtc.runtime.run_inputs(engine, [])
    with pytest.raises(InputError, match="`options` is of type TrackOptions: expected RunOptions"):
        sdtc.runtime.run_inputs(engine, "v.mp4", TrackOptions())
    assert RunOptions(output="poses", boxes="b.json") == RunOptions(output=Path("poses"), boxes=Path("b.json"))


@given(st.lists(st.lists(st.floats(width=32) | st.integers(-(2**70), 2**70), min_size=4, max_size=4), max_size=4))
def test_every_box_is_a_sentence_or_overlaps_the_frame(boxes) -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    try:
        checked = check_boxes(boxes, image)
    except InputError:
        return
    assert checked.shape == (len(boxes), 4)
    assert np.isfinite(checked).all()
    assert (checked[:, 2:] > 0).all()
    assert ((checked[:, :2] < [160, 120]) & (checked[:, :2] + checked[:, 2:] > 0)).all()
