from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sdtc.runtime.estimation.token_cache import Schedule, SlotPool, TokenCache

T = 5
BOX = np.array([10.0, 20.0, 30.0, 40.0])


def shifted(x: float, y: float = 0.0) -> np.ndarray:
    return BOX + np.array([x, y, 0, 0])


def make() -> TokenCache:
    return TokenCache(T, SlotPool())


def frames_encoded(schedule: Schedule) -> list[int]:
    return [frame for frame, _, _ in schedule.encode]


def window(keyframe: int, length: int) -> list[int]:
    return [min(max(keyframe + offset, 0), length - 1) for offset in range(-2, 3)]


class Clip:
    """People by frame, and the cache that schedules one keyframe after the other."""

    def __init__(self, frames: list[dict[int, np.ndarray]], cache: TokenCache | None = None) -> None:
        self.frames, self.cache = frames, make() if cache is None else cache

    def schedule(self, keyframe: int, length: int | None = None) -> Schedule:
        people = self.frames[keyframe]
        boxes = np.array(list(people.values())).reshape(-1, 4)
        around = window(keyframe, length or len(self.frames))
        known = {index: self.frames[index] for index in around if index != keyframe}
        return self.cache.schedule(around, boxes, list(people), known)


def test_a_person_who_walks_is_encoded_once_in_every_frame_in_the_box_of_that_frame() -> None:
    clip = Clip([{7: shifted(5.0 * frame)} for frame in range(10)])
    for keyframe in range(10):
        schedule = clip.schedule(keyframe)
        assert frames_encoded(schedule) == ([0, 1, 2] if keyframe == 0 else [keyframe + 2] if keyframe < 8 else [])
        for frame, box, _ in schedule.encode:
            np.testing.assert_array_equal(box, shifted(5.0 * frame))
        np.testing.assert_array_equal(schedule.crop_boxes[0], [shifted(5.0 * frame) for frame in window(keyframe, 10)])
    assert (clip.cache.encoded, clip.cache.estimated) == (10, 10)


def test_a_new_person_costs_delta_crops_more_and_not_all_at_once() -> None:
    clip = Clip([{7: shifted(frame)} if frame >= 5 else {} for frame in range(20)])
    encoded = [frames_encoded(clip.schedule(keyframe)) for keyframe in range(20)]
    assert encoded[:9] == [[], [], [], [5], [6], [3, 4, 7], [8], [9], [10]]
    assert clip.cache.encoded == 15 + 2


def test_where_somebody_was_not_found_the_nearest_box_is_used_and_of_two_the_earlier() -> None:
    clip = Clip([{7: shifted(frame)} if frame not in (4, 5, 6) else {} for frame in range(12)])
    boxes = {frame: box for keyframe in range(12) for frame, box, _ in clip.schedule(keyframe).encode}
    assert sorted(boxes) == list(range(12))
    np.testing.assert_array_equal(boxes[4], shifted(3))
    np.testing.assert_array_equal(boxes[5], shifted(3))  # first wanted when frame 7 has not come
    np.testing.assert_array_equal(boxes[6], shifted(7))
    clip = Clip([{7: shifted(frame)} if frame != 2 else {} for frame in range(5)])
    boxes = {frame: box for keyframe in range(5) for frame, box, _ in clip.schedule(keyframe).encode}
    np.testing.assert_array_equal(boxes[2], shifted(1))


def test_a_person_who_leaves_is_seen_in_the_last_box() -> None:
    clip = Clip([{7: shifted(frame)} if frame < 5 else {} for frame in range(9)])
    encoded = {}
    for keyframe in range(9):
        encoded |= {frame: box for frame, box, _ in clip.schedule(keyframe).encode}
    assert sorted(encoded) == list(range(7))
    np.testing.assert_array_equal(encoded[6], shifted(4))


def test_the_lost_are_forgotten() -> None:
    clip = Clip([{1: BOX}] + [{2: BOX}] * (T + 1))
    for keyframe in range(T):
        clip.schedule(keyframe)
    assert len(clip.cache) == 2  # a window may still hold frames of the first
    clip.schedule(T)
    assert len(clip.cache) == 1


@given(
    st.lists(st.dictionaries(st.integers(0, 30), st.floats(-50, 50), max_size=4), min_size=1, max_size=60),
    st.integers(1, 3),
)
def test_memory_is_bounded_by_the_people_of_one_window_and_of_what_is_in_flight(frames, together) -> None:
    clip, bound = Clip([{key: shifted(x) for key, x in people.items()} for people in frames]), 0
    for keyframe in range(len(frames)):
        clip.schedule(keyframe)
        around = frames[max(keyframe - T - together + 1, 0) : keyframe + 3]
        bound = max(bound, sum(T * len(people) for people in around))
        assert len(clip.cache) <= len(set().union(*frames[max(keyframe - T + 1, 0) : keyframe + 3]))
        assert clip.cache._slots.num_slots <= bound
        if keyframe % together == 0:
            clip.cache.release()
    clip.cache.end()
    assert sorted(clip.cache._slots._free) == list(range(clip.cache._slots.num_slots))  # none is lost or there twice


def test_two_people_with_one_id_do_not_share_tokens() -> None:
    cache = make()
    for keyframe in (0, 1):
        others = {index: {3: shifted(index)} for index in window(keyframe, 10)}
        schedule = cache.schedule(window(keyframe, 10), np.stack([shifted(keyframe), BOX + 500]), [3, 3], others)
        assert not set(schedule.slots[0]) & set(schedule.slots[1])
        np.testing.assert_array_equal(schedule.crop_boxes[0], [shifted(index) for index in window(keyframe, 10)])
        np.testing.assert_array_equal(schedule.crop_boxes[1], [BOX + 500] * T)  # who is who in other frames is unknown
        cache.release()


def test_a_frame_that_replaces_a_missing_one_is_the_keyframe() -> None:
    cache = make()
    schedule = cache.schedule([3, 3, 3, 4, 3], BOX[None], [7], {3: {7: BOX}, 4: {7: shifted(2)}})
    assert frames_encoded(schedule) == [3, 4]
    assert len(set(schedule.slots[0])) == 2


@given(
    st.lists(st.dictionaries(st.integers(0, 3), st.floats(-4, 4), max_size=4), min_size=1, max_size=40),
    st.integers(1, 4),
    st.integers(1, 2),
)
def test_tokens_are_always_of_the_right_frame_and_box(frames, together, sources) -> None:
    """Encode by writing down what was encoded, several keyframes at once, and look at what every window would get."""
    pool, slots = SlotPool(), {}
    people = [{key: shifted(x, 100 * key) for key, x in each.items()} for each in frames]
    clips = [Clip(people, TokenCache(T, pool)) for _ in range(sources)]
    waiting = []
    for keyframe in range(len(frames)):
        for number, clip in enumerate(clips):
            waiting.append((number, keyframe, clip.schedule(keyframe)))
        if (keyframe + 1) % together and keyframe + 1 < len(frames):
            continue
        for number, _, schedule in waiting:
            for frame, box, slot in schedule.encode:
                slots[slot] = (number, frame, *box)
        for number, keyframe_done, schedule in waiting:
            for row, used, track_id in zip(schedule.slots, schedule.crop_boxes, people[keyframe_done], strict=True):
                for slot, box, frame in zip(row, used, window(keyframe_done, len(frames)), strict=True):
                    assert slots[slot] == (number, frame, *box)
                    if track_id in people[frame]:
                        np.testing.assert_array_equal(box, people[frame][track_id])
                    else:
                        assert any(np.array_equal(box, each[track_id]) for each in people if track_id in each)
        waiting.clear()
        for clip in clips:
            clip.cache.release()
