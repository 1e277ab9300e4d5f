from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.runtime.cli import _parser
from sdtc.runtime.estimation.token_cache import HOLD, Schedule, TokenCache, fits

T = 5
BOX = np.array([10.0, 20.0, 30.0, 40.0])


def shifted(x: float, y: float = 0.0) -> np.ndarray:
    return BOX + np.array([x, y, 0, 0])


def make(hold: float = 0.1) -> TokenCache:
    return TokenCache(T, hold)


def frames_encoded(schedule: Schedule) -> list[int]:
    return [frame for frame, _, _ in schedule.encode]


def window(keyframe: int, length: int) -> list[int]:
    return [min(max(keyframe + offset, 0), length - 1) for offset in range(-2, 3)]


def test_a_person_who_stands_still_is_encoded_once_a_frame() -> None:
    cache = make()
    encoded = [frames_encoded(cache.schedule(keyframe, window(keyframe, 10), BOX[None], [7])) for keyframe in range(10)]
    assert encoded == [[0, 1, 2], [3], [4], [5], [6], [7], [8], [9], [], []]
    assert (cache.encoded, cache.reused) == (10, 44 - 10)  # 3 + 4 + 6 * 5 + 4 + 3 frames in ten windows


def test_a_person_who_moves_too_far_is_encoded_anew() -> None:
    cache = make(hold=0.1)
    assert frames_encoded(cache.schedule(5, window(5, 100), BOX[None], [7])) == [3, 4, 5, 6, 7]
    schedule = cache.schedule(6, window(6, 100), shifted(2.9)[None], [7])  # a tenth of the width is 3 pixels
    np.testing.assert_array_equal(schedule.crop_boxes, BOX[None])
    assert frames_encoded(schedule) == [8]
    schedule = cache.schedule(7, window(7, 100), shifted(3.1)[None], [7])
    np.testing.assert_array_equal(schedule.crop_boxes, shifted(3.1)[None])
    assert frames_encoded(schedule) == [5, 6, 7, 8, 9]


def test_the_help_states_the_default() -> None:
    assert f"is updated (default: {HOLD})" in " ".join(_parser().format_help().split())


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
    cache.schedule(0, window(0, 100), BOX[None], [1])
    cache.schedule(T - 1, window(T - 1, 100), BOX[None], [2])
    assert len(cache) == 2  # a window may still hold frames of the first
    cache.schedule(T, window(T, 100), BOX[None], [2])
    assert len(cache) == 1


@given(st.lists(st.sets(st.integers(0, 30), max_size=4), min_size=1, max_size=60), st.integers(1, 3))
def test_memory_is_bounded_by_the_people_of_one_window_and_of_what_is_in_flight(frames, together) -> None:
    cache, x, bound = make(), 0.0, 0
    for keyframe, people in enumerate(frames):
        ids = sorted(people)
        x += 2.0  # so far that every other box is taken anew
        cache.schedule(keyframe, window(keyframe, len(frames)), np.tile(shifted(x), (len(ids), 1)), ids)
        around = frames[max(keyframe - T - together + 1, 0) : keyframe + 1]
        bound = max(bound, sum(T * len(people) for people in around))
        assert len(cache) <= len(set().union(*frames[max(keyframe - T + 1, 0) : keyframe + 1]))
        assert cache.num_slots <= bound
        if keyframe % together == 0:
            cache.release()


def test_two_people_with_one_id_do_not_share_tokens() -> None:
    cache = make()
    for keyframe in (0, 1):
        schedule = cache.schedule(keyframe, window(keyframe, 10), np.stack([BOX, BOX + 500]), [3, 3])
        assert not set(schedule.windows[0]) & set(schedule.windows[1])
        np.testing.assert_array_equal(schedule.crop_boxes, np.stack([BOX, BOX + 500]))
        cache.release()


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.floats(-4, 4)), max_size=4), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.integers(1, 4),
)
def test_tokens_are_always_of_the_right_frame_and_box(steps, hold, together) -> None:
    """Encode by writing down what was encoded, several keyframes at once, and look at what every window would get."""
    cache, places, slots = make(hold), dict.fromkeys(range(4), 0.0), {}
    waiting = []
    for keyframe, people in enumerate(steps):
        for person, step in people:
            places[person] += step
        ids = [person for person, _ in people]
        boxes = np.array([shifted(places[person], 100 * person) for person in ids]).reshape(-1, 4)
        frames = window(keyframe, len(steps))
        waiting.append((frames, boxes, cache.schedule(keyframe, frames, boxes, ids)))
        if len(waiting) < together and keyframe + 1 < len(steps):
            continue
        for _, _, schedule in waiting:
            for frame, person, slot in schedule.encode:
                slots[slot] = (frame, *schedule.crop_boxes[person])
        for frames, boxes, schedule in waiting:
            for row, held, wanted in zip(schedule.windows, schedule.crop_boxes, boxes, strict=True):
                assert [slots[slot] for slot in row] == [(frame, *held) for frame in frames]
                assert fits(held, wanted, hold)
        waiting.clear()
        cache.release()
