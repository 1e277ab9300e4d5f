"""Tracking: ids that stay with people. Everything here is geometry; no pixels are needed."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdtc.core.errors import InputError
from sdtc.runtime.people.tracking import MAX_LOST, Tracker, assign

PERSON = (40.0, 100.0)


def box_at(x: float, y: float = 200.0, size: tuple[float, float] = PERSON) -> list[float]:
    """A box (x, y, width, height) by its centre."""
    return [x - size[0] / 2, y - size[1] / 2, *size]


def run(tracker: Tracker, frames: list[list[list[float]]], scores: float = 0.9) -> list[list[int]]:
    return [
        tracker.update(np.array(boxes).reshape(-1, 4), np.full(len(boxes), scores), index).tolist()
        for index, boxes in enumerate(frames)
    ]


def test_first_ids_count_from_zero() -> None:
    ids = Tracker().update(np.array([box_at(0), box_at(500), box_at(900)]), np.ones(3), 17)
    assert ids.dtype == np.int64
    assert ids.tolist() == [0, 1, 2]


def test_low_scores_also_get_ids() -> None:
    assert Tracker().update(np.array([box_at(0), box_at(500)]), np.array([0.9, 0.01]), 0).tolist() == [0, 1]


def test_empty_frames() -> None:
    tracker = Tracker()
    ids = tracker.update(np.zeros((0, 4)), np.zeros(0), 0)
    assert ids.shape == (0,)
    assert ids.dtype == np.int64
    assert tracker.update(np.array([box_at(5)]), np.ones(1), 1).tolist() == [0]
    assert tracker.update([], [], 2).tolist() == []
    assert tracker.update(np.array([box_at(5)]), np.ones(1), 3).tolist() == [0]


# Speeds in pixels per frame, of people 40 wide. Two who meet at the same speed cannot be told apart.
@pytest.mark.parametrize("speeds", [(4, -4), (10, -6), (8, 2), (12, -12), (3, 0), (20, 5)])
def test_crossing_people_keep_their_ids(speeds: tuple[float, float]) -> None:
    frames = [[box_at(400 + speed * (index - 25)) for speed in speeds] for index in range(60)]
    assert run(Tracker(), frames) == [[0, 1]] * 60


@pytest.mark.parametrize("speeds", [(4, -4), (10, -6), (8, 2), (12, -12), (20, 5)])
def test_crossing_people_keep_their_ids_in_jittering_boxes(
    speeds: tuple[float, float], rng: np.random.Generator
) -> None:
    # while they are on the same spot, jitter decides which box is whose; when they part, it must be right again
    tracker, meet, apart = Tracker(), 25, 8
    for index in range(60):
        boxes = np.array([box_at(400 + speed * (index - meet)) for speed in speeds])
        boxes += 1.5 * rng.standard_normal(boxes.shape)
        ids = tracker.update(boxes, np.full(2, 0.9), index).tolist()
        assert ids == [0, 1] or (abs(index - meet) < apart and ids == [1, 0])


def test_motion_carries_a_hidden_person_behind_another() -> None:
    # one walks at 6 px per frame behind one who stands, and is unseen for 8 frames around the meeting
    tracker = Tracker()
    for index in range(60):
        walker, hidden = 100 + 6 * index, 21 <= index < 29
        boxes = [box_at(250)] if hidden else [box_at(250), box_at(walker)]
        assert tracker.update(np.array(boxes), np.full(len(boxes), 0.9), index).tolist() == [0, 1][: len(boxes)]


@given(gap=st.integers(0, 60), max_lost=st.integers(0, 40), speed=st.sampled_from([0.0, 2.0]))
def test_gap_keeps_the_id_up_to_max_lost(gap: int, max_lost: int, speed: float) -> None:
    tracker = Tracker(max_lost=max_lost)
    for index in range(10):
        tracker.update(np.array([box_at(speed * index)]), np.ones(1), index)
    # seen again after `gap` frames, where a person stands who stopped soon after being lost
    back = 10 + gap
    ids = tracker.update(np.array([box_at(speed * (10 + min(gap, 9)))]), np.ones(1), back)
    assert ids.tolist() == [0 if gap <= max_lost else 1]


@pytest.mark.parametrize("report_empty_frames", [True, False])
def test_gaps_count_frames_not_calls(report_empty_frames: bool) -> None:
    tracker = Tracker(max_lost=5)
    tracker.update(np.array([box_at(0)]), np.ones(1), 0)
    if report_empty_frames:
        for index in range(1, 6):
            tracker.update(np.zeros((0, 4)), np.zeros(0), index)
    assert tracker.update(np.array([box_at(0)]), np.ones(1), 6).tolist() == [0]
    assert tracker.update(np.array([box_at(0)]), np.ones(1), 13).tolist() == [1]


def test_every_third_frame_at_the_same_speed() -> None:
    tracker = Tracker()
    ids = [tracker.update(np.array([box_at(12 * i)]), np.ones(1), i).tolist() for i in range(0, 90, 3)]
    assert ids == [[0]] * 30


def test_high_scores_choose_first() -> None:
    # a good box a little off, and a doubtful one exactly where the track is: the good one is the person
    tracker = Tracker()
    tracker.update(np.array([box_at(100)]), np.ones(1), 0)
    assert tracker.update(np.array([box_at(100), box_at(110)]), np.array([0.3, 0.8]), 1).tolist() == [1, 0]


def test_low_scores_continue_tracks() -> None:
    tracker = Tracker()
    for index, score in enumerate([0.9, 0.9, 0.2, 0.2, 0.9]):
        assert tracker.update(np.array([box_at(100)]), np.array([score]), index).tolist() == [0]


def test_ids_are_not_handed_to_someone_far_away() -> None:
    assert run(Tracker(), [[box_at(100)], [box_at(400)], [box_at(100)]]) == [[0], [1], [0]]


def test_fast_start_is_caught() -> None:
    # the second box does not overlap the first by match_iou: a new track's reach is wider
    assert run(Tracker(), [[box_at(100 + 32 * i)] for i in range(10)]) == [[0]] * 10


@pytest.mark.parametrize(
    ("boxes", "scores", "index", "message"),
    [
        (np.zeros((2, 4)), np.zeros(3), 9, "one score per box, got 2 boxes and 3 scores"),
        (np.zeros((0, 4)), np.zeros(0), 5, "growing frame indices, got 5 after 5"),
        (np.zeros((0, 4)), np.zeros(0), 0, "growing frame indices, got 0 after 5"),
    ],
)
def test_unusable_input(boxes: np.ndarray, scores: np.ndarray, index: int, message: str) -> None:
    tracker = Tracker()
    tracker.update(np.zeros((0, 4)), np.zeros(0), 5)
    with pytest.raises(InputError, match=message):
        tracker.update(boxes, scores, index)


# Boxes in eighths, so that no two overlaps are equal by accident of a grid.
coordinate = st.integers(0, 4000).map(lambda i: i / 8)
side = st.integers(160, 1200).map(lambda i: i / 8)
people = st.lists(st.tuples(coordinate, coordinate, side, side), max_size=6, unique=True)
scored_frames = st.lists(
    st.tuples(st.integers(1, 4), people, st.lists(st.sampled_from([0.1, 0.6, 0.9]), min_size=6, max_size=6)),
    max_size=8,
)


@pytest.mark.slow
@given(scored_frames)
def test_ids_are_unique_within_a_frame_and_never_reused(frames: list) -> None:
    tracker, index, last_seen = Tracker(max_lost=3), 0, {}
    highest = -1
    for step, boxes, scores in frames:
        index += step
        ids = tracker.update(np.array(boxes).reshape(-1, 4), np.array(scores[: len(boxes)]), index).tolist()
        assert len(set(ids)) == len(ids) == len(boxes)
        for track_id in ids:
            if track_id in last_seen:
                assert index - last_seen[track_id] - 1 <= 3
            else:
                highest += 1
                assert track_id <= len(last_seen) + len(ids)
            last_seen[track_id] = index
    assert set(last_seen) == set(range(highest + 1))


@pytest.mark.slow
@given(scored_frames, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_order_of_boxes_does_not_matter(frames: list, random: object) -> None:
    """The same people, listed in another order, are linked in the same way (new ones are numbered as listed)."""
    one, other, index = Tracker(), Tracker(), 0
    renamed: dict[int, int] = {}
    for step, boxes, scores in frames:
        index += step
        order = list(range(len(boxes)))
        random.shuffle(order)  # type: ignore[attr-defined]
        array, values = np.array(boxes).reshape(-1, 4), np.array(scores[: len(boxes)])
        ids = one.update(array, values, index)
        shuffled = other.update(array[order], values[order], index)
        for a, b in zip(ids[order].tolist(), shuffled.tolist(), strict=True):
            assert renamed.setdefault(a, b) == b
    assert len(set(renamed.values())) == len(renamed)


@pytest.mark.slow
def test_hours_of_people_coming_and_going_stay_bounded(rng: np.random.Generator) -> None:
    tracker, max_lost = Tracker(max_lost=20), 20
    walkers: list[list[float]] = []  # x, y, speed
    boxes_lately: list[int] = []
    total = 0
    for index in range(5000):
        if rng.random() < 0.05:
            walkers.append([0.0, rng.uniform(50, 1000), rng.uniform(8, 20)])
            total += 1
        walkers = [[x + speed, y, speed] for x, y, speed in walkers if x < 1920]
        seen = [walker for walker in walkers if rng.random() < 0.9]
        boxes = np.array([box_at(x, y) for x, y, _ in seen]).reshape(-1, 4)
        ids = tracker.update(boxes, rng.uniform(0.3, 1, len(boxes)), index)
        assert len(set(ids.tolist())) == len(boxes)
        boxes_lately = [*boxes_lately, len(boxes)][-max_lost - 1 :]
        assert len(tracker) <= sum(boxes_lately)
        assert len(tracker) <= 60
    assert total <= tracker.update(np.array([box_at(-900)]), np.ones(1), 9999).item() <= total * 1.2


def best_sum(benefit: np.ndarray) -> float:
    wide = benefit if benefit.shape[0] <= benefit.shape[1] else benefit.T
    rows, columns = wide.shape
    return max(float(wide[range(rows), order].sum()) for order in itertools.permutations(range(columns), rows))


@given(st.integers(1, 5), st.integers(1, 5), st.randoms(use_true_random=False), st.sampled_from([0.3, 0.7, 1.0]))
@settings(max_examples=200)
def test_assignment_is_optimal(rows: int, columns: int, random: object, density: float) -> None:
    rng = np.random.default_rng(random.getrandbits(32))  # type: ignore[attr-defined]
    benefit = np.where(rng.random((rows, columns)) < density, np.round(rng.random((rows, columns)), 1), 0.0)
    pairs = assign(benefit)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    assert all(benefit[i, j] > 0 for i, j in pairs)
    assert sum(benefit[i, j] for i, j in pairs) == pytest.approx(best_sum(benefit))


@pytest.mark.parametrize("shape", [(0, 0), (0, 4), (4, 0)])
def test_assignment_of_nothing(shape: tuple[int, int]) -> None:
    assert assign(np.zeros(shape)) == []


def test_people_go_on_as_they_went_where_nobody_looks() -> None:
    tracker = Tracker()
    for frame in range(6):
        boxes = np.array([[10 + 4 * frame, 50, 40, 80], [300, 60, 30, 70]], np.float32)
        ids = tracker.update(boxes, np.array([0.9, 0.4]), frame)
    boxes, scores, predicted = tracker.predict(7, (400, 600))
    np.testing.assert_array_equal(predicted, ids)
    np.testing.assert_allclose(boxes, [[10 + 4 * 7, 50, 40, 80], [300, 60, 30, 70]], atol=1.0)
    np.testing.assert_allclose(scores, [0.9, 0.4])
    assert (boxes.dtype, scores.dtype, predicted.dtype) == (np.float32, np.float32, np.int64)


def test_nobody_is_predicted_who_was_not_there_or_has_left() -> None:
    tracker = Tracker()
    tracker.update(np.array([[10, 50, 40, 80], [100, 50, 40, 80]]), np.ones(2), 0)
    tracker.update(np.array([[10, 50, 40, 80]]), np.ones(1), 1)
    assert tracker.predict(2, (400, 600))[2].tolist() == [0]
    assert tracker.predict(2, (400, 5))[0].shape == (0, 4)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 60), st.floats(-3, 3)), min_size=1, max_size=8),
    st.integers(1, 70),
)
def test_a_tracker_that_recalls_the_last_frames_goes_on_as_the_first_would_have(lives, cut) -> None:
    """People come, walk in lanes of their own and go; boxes come back rounded, as files have them."""
    frames = [
        [box_at(300 + speed * index, 1000 * lane) for lane, (first, length, speed) in enumerate(lives)
         if first <= index < first + length]
        for index in range(120)
    ]  # fmt: skip
    ids = run(Tracker(), frames)
    tracker = Tracker(first_id=max((i + 1 for frame in ids[:cut] for i in frame), default=0))
    for index in range(max(cut - MAX_LOST - 1, 0), cut):
        boxes = np.round(np.array(frames[index]).reshape(-1, 4), 3)
        tracker.recall(boxes, np.full(len(boxes), 0.9), ids[index], index)
    assert len(tracker) == len({i for frame in ids[max(cut - MAX_LOST - 1, 0) : cut] for i in frame})
    later = [
        tracker.update(np.array(boxes).reshape(-1, 4), np.full(len(boxes), 0.9), index).tolist()
        for index, boxes in enumerate(frames[cut:], start=cut)
    ]
    assert later == ids[cut:]


def test_recalled_frames_come_in_order_and_an_id_once() -> None:
    tracker = Tracker(first_id=8)
    tracker.recall(np.array([box_at(0), box_at(500)]), np.ones(2), [7, 7], 3)  # of two with one id the last is taken
    assert tracker.update(np.array([box_at(500), box_at(0)]), np.ones(2), 4).tolist() == [7, 8]
    with pytest.raises(InputError, match="growing frame indices"):
        tracker.recall(np.zeros((0, 4)), [], [], 4)
