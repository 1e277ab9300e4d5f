from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.runtime.cli import _parser
from sdtc.runtime.token_cache import HOLD, TokenCache, fits

T = 5
BOX = np.array([10.0, 20.0, 30.0, 40.0])


def shifted(x: float, y: float = 0.0) -> np.ndarray:
    return BOX + np.array([x, y, 0, 0])


def make(hold: float = 0.1) -> TokenCache:
    return TokenCache(T, (2, 3), np.dtype(np.float32), hold)


def window(keyframe: int, length: int) -> list[int]:
    return [min(max(keyframe + offset, 0), length - 1) for offset in range(-2, 3)]


def test_a_person_who_stands_still_is_encoded_once_a_frame() -> None:
    cache, encoded = make(), []
    for keyframe in range(10):
        (track,) = cache.update(keyframe, BOX[None], [7])
        encoded.append(cache.missing(track, window(keyframe, 10)))
    assert encoded == [[0, 1, 2], [3], [4], [5], [6], [7], [8], [9], [], []]
    assert (cache.encoded, cache.reused) == (10, 44 - 10)  # 3 + 4 + 6 * 5 + 4 + 3 frames in ten windows


def test_a_person_who_moves_too_far_is_encoded_anew() -> None:
    cache = make(hold=0.1)
    (track,) = cache.update(5, BOX[None], [7])
    assert cache.missing(track, window(5, 100)) == [3, 4, 5, 6, 7]
    (track,) = cache.update(6, shifted(2.9)[None], [7])  # a tenth of the width is 3 pixels
    np.testing.assert_array_equal(track.crop_box, BOX)
    assert cache.missing(track, window(6, 100)) == [8]
    (track,) = cache.update(7, shifted(3.1)[None], [7])
    np.testing.assert_array_equal(track.crop_box, shifted(3.1))
    assert cache.missing(track, window(7, 100)) == [5, 6, 7, 8, 9]


def test_the_help_states_the_default() -> None:
    assert f"taken anew (default: {HOLD})" in " ".join(_parser().format_help().split())


def test_nothing_is_held_at_zero() -> None:
    assert fits(BOX, BOX.copy(), 0.0)
    assert not fits(BOX, shifted(1e-9), 0.0)


@pytest.mark.parametrize(
    ("change", "held"),
    [([0, 3.9, 0, 0], True), ([0, 4.1, 0, 0], False), ([-1.5, -2, 3, 4], True), ([-2, -2.6, 4, 5.3], False)],
)
def test_what_a_held_box_may_be_off(change, held) -> None:
    assert fits(BOX, BOX + change, 0.1) is held


def test_the_lost_are_forgotten() -> None:
    cache = make()
    cache.update(0, BOX[None], [1])
    cache.update(T - 1, BOX[None], [2])
    assert len(cache) == 2  # a window may still hold frames of the first
    cache.update(T, BOX[None], [2])
    assert len(cache) == 1


@given(st.lists(st.sets(st.integers(0, 30), max_size=4), min_size=1, max_size=60))
def test_memory_is_bounded_by_the_people_of_one_window(frames) -> None:
    cache = make()
    for keyframe, people in enumerate(frames):
        ids = sorted(people)
        cache.update(keyframe, np.tile(BOX, (len(ids), 1)), ids)
        assert len(cache) <= len(set().union(*frames[max(keyframe - T + 1, 0) : keyframe + 1]))


def test_two_people_with_one_id_do_not_share_tokens() -> None:
    cache = make()
    for keyframe in (0, 1):
        first, second = cache.update(keyframe, np.stack([BOX, BOX + 500]), [3, 3])
        assert first is not second
        np.testing.assert_array_equal(first.crop_box, BOX)
        np.testing.assert_array_equal(second.crop_box, BOX + 500)


@given(
    st.lists(st.tuples(st.booleans(), st.floats(-4, 4)), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_tokens_are_always_of_the_right_frame_and_box(steps, hold) -> None:
    """Encode by writing down what was encoded, and look at what every window would get."""
    cache, x = make(hold), 0.0
    for keyframe, (seen, step) in enumerate(steps):
        x += step
        if not seen:
            continue
        box = shifted(x)
        (track,) = cache.update(keyframe, box[None], [0])
        frames = window(keyframe, len(steps))
        for frame in cache.missing(track, frames):
            track.tokens[frame % T] = [[frame, track.crop_box[0], 0]] * 2
        for frame in frames:
            np.testing.assert_allclose(track.tokens[frame % T, 0, :2], [frame, track.crop_box[0]], rtol=1e-6)
        assert fits(track.crop_box, box, hold)
