from __future__ import annotations

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.runtime.sources.base import GAP, Frame
from sdtc.runtime.sources.windows import windows


def make(numbers, size=(4, 4)) -> list[Frame]:
    return [Frame(i, i, None, None if n is None else np.full((*size, 3), n, np.uint8)) for i, n in enumerate(numbers)]


def values(window) -> list[int]:
    return [int(frame.image[0, 0, 0]) for frame in window]


@given(st.integers(0, 20), st.integers(0, 4))
def test_clamped_windows_of_any_length(length, delta) -> None:
    result = list(windows(iter(make(range(length))), delta))
    assert [keyframe.index for keyframe, _ in result] == list(range(length))
    for keyframe, images in result:
        want = [min(max(keyframe.index + o, 0), length - 1) for o in range(-delta, delta + 1)]
        assert values(images) == want


@given(st.lists(st.one_of(st.none(), st.integers(0, 255)), max_size=15), st.integers(0, 3))
def test_missing_frames_are_replaced_by_the_keyframe(numbers, delta) -> None:
    for keyframe, images in windows(iter(make(numbers)), delta):
        if numbers[keyframe.index] is None:
            assert images == []
            continue
        want = []
        for offset in range(-delta, delta + 1):
            value = numbers[min(max(keyframe.index + offset, 0), len(numbers) - 1)]
            want.append(numbers[keyframe.index] if value is None else value)
        assert values(images) == want


def test_frames_of_another_size_count_as_missing() -> None:
    frames = make([1, 2, 3])
    frames[2] = Frame(2, 2, None, np.zeros((8, 8, 3), np.uint8))
    result = [values(images) for _, images in windows(iter(frames), 1)]
    assert result == [[1, 1, 2], [1, 2, 2], [0, 0, 0]]


def test_a_keyframe_comes_as_soon_as_its_look_ahead_is_read() -> None:
    read = []

    def source():
        for frame in make(range(6)):
            read.append(frame.index)
            yield frame

    stream = windows(source(), 2)
    assert next(stream)[0].index == 0
    assert read == [0, 1, 2]


@pytest.mark.parametrize("delta", [0, 2])
def test_memory_holds_one_window(delta) -> None:
    alive: list[weakref.ref] = []
    most = 0

    def source():
        for i in range(50):
            image = np.zeros((4, 4, 3), np.uint8)
            alive.append(weakref.ref(image))
            yield Frame(i, i, None, image)

    for _ in windows(source(), delta):
        most = max(most, sum(ref() is not None for ref in alive))
    assert most <= 2 * delta + 3


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(0, 3), st.integers(0, 3))
def test_a_gap_is_an_end_and_a_beginning(lengths, delta, lookahead) -> None:
    """The windows are those of each piece on its own, and all of a piece are there before what follows it is read."""
    lookahead = min(lookahead, delta)
    frames = make(range(sum(lengths)))
    pieces, start = [], 0
    for length in lengths:
        pieces.append(frames[start : start + length])
        start += length
    read = []

    def stream():
        for piece in pieces:
            for frame in piece:
                read.append(frame)
                yield frame
            yield GAP

    apart = [window for piece in pieces for window in windows(piece, delta, lookahead)]
    together = []
    for keyframe, window in windows(stream(), delta, lookahead):
        together.append((keyframe, window))
        assert read[-1].index - keyframe.index <= lookahead
    assert [(k.index, [f.index for f in w]) for k, w in together] == [(k.index, [f.index for f in w]) for k, w in apart]


def test_an_error_comes_after_the_keyframes_before_it() -> None:
    def broken():
        yield from make(range(5))
        raise ValueError("of a detector")

    seen = []
    with pytest.raises(ValueError, match="of a detector"):
        for keyframe, window in windows(broken(), 2):
            seen.append((keyframe.index, [frame.index for frame in window]))
    assert seen == [(keyframe.index, [f.index for f in window]) for keyframe, window in windows(make(range(5)), 2)]
