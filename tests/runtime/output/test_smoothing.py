from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sdtc.core.errors import InputError
from sdtc.runtime.output.results import FrameResult, Pose
from sdtc.runtime.output.smoothing import OneEuro, smooth
from sdtc.runtime.people.rates import MIN_STEP

FPS = 25.0


def result(index: int, points: np.ndarray, score: float = 1.0, track_id: int = 0, size: float = 200.0) -> FrameResult:
    keypoints = np.concatenate([points, np.full((len(points), 1), score)], axis=1).astype(np.float32)
    box = np.array([0, 0, size / 2, size], np.float32)
    return FrameResult(index, index, None, index, None, [Pose(track_id, keypoints, box, 0.9)], time=index / FPS)


def run(path: np.ndarray, **options) -> np.ndarray:
    """Filter a path ``[frames, J, 2]``."""
    results = (result(i, points, **options) for i, points in enumerate(path))
    return np.stack([r.poses[0].keypoints[:, :2] for r in smooth(results)])


def test_a_joint_at_rest_stops_trembling(rng) -> None:
    still = np.full((200, 1, 2), 100.0)
    shaken = still + rng.normal(0, 2, still.shape)
    assert run(shaken)[20:].std() < 0.65 * shaken[20:].std()


def test_a_fast_joint_does_not_lag() -> None:
    """Three box heights a second: 24 pixels a frame."""
    path = np.cumsum(np.full((40, 1, 2), [24.0, 0.0]), axis=0)
    assert np.abs(run(path) - path)[20:].max() < 0.2 * 24


@given(hnp.arrays(np.float64, (12, 3, 2), elements=st.floats(-500, 500)), st.floats(0, 1))
def test_it_never_leaves_what_it_has_seen(path, score) -> None:
    found = run(path, score=score)
    for frame in range(len(path)):
        seen = path[: frame + 1]
        assert (found[frame] >= seen.min(0) - 1e-3).all()
        assert (found[frame] <= seen.max(0) + 1e-3).all()


@given(hnp.arrays(np.float64, (8, 2, 2), elements=st.floats(-100, 100)), st.floats(0.5, 8))
def test_near_and_far_are_filtered_alike(path, scale) -> None:
    np.testing.assert_allclose(run(path * scale, size=200 * scale), run(path) * scale, atol=1e-2)


def test_a_joint_that_is_hidden_moves_less() -> None:
    path = np.zeros((2, 1, 2))
    path[1] = 10
    moved = [run(path, score=score)[1, 0, 0] for score in (1.0, 0.5, 0.1, 0.0)]
    assert moved == sorted(moved, reverse=True)
    assert 0 < moved[-1] < 0.4 * moved[0]


def test_people_are_filtered_apart_and_forgotten() -> None:
    one_euro = OneEuro()
    near, far = np.zeros((1, 2)), np.full((1, 2), 300.0)
    one_euro(result(0, near, track_id=1))
    new = one_euro(result(1, far, track_id=2))
    np.testing.assert_array_equal(new.poses[0].keypoints[:, :2], far)  # a new person starts where they are
    again = one_euro(result(60, far, track_id=1))  # more than a second later
    np.testing.assert_array_equal(again.poses[0].keypoints[:, :2], far)
    assert len(one_euro._states) == 1


def test_live_frames_are_filtered_by_the_clock(rng) -> None:
    """Of 25 frames a second every other one is dropped: as 12.5 a second from a file; after a pause it begins anew."""
    path = np.cumsum(rng.normal(0, 3, (20, 2, 2)), axis=0)
    live = [dataclasses.replace(result(i, points), time=2 * i / FPS) for i, points in enumerate(path)]
    got = [r.poses[0].keypoints for r in smooth(live)]
    want = [r.poses[0].keypoints for r in smooth([result(2 * i, points) for i, points in enumerate(path)])]
    np.testing.assert_allclose(got, want, atol=1e-3)
    one_euro = OneEuro()
    one_euro(dataclasses.replace(result(0, path[0]), time=0.0))
    late = one_euro(dataclasses.replace(result(1, path[0] + 50), time=5.0))
    np.testing.assert_allclose(late.poses[0].keypoints[:, :2], path[0] + 50, atol=1e-3)
    one_euro(dataclasses.replace(result(2, path[0]), time=5.04))
    same = copy.deepcopy(one_euro)
    burst = one_euro(dataclasses.replace(result(3, path[1]), time=5.0400001))  # held up by the network
    later = same(dataclasses.replace(result(3, path[1]), time=5.04 + MIN_STEP))
    np.testing.assert_allclose(burst.poses[0].keypoints, later.poses[0].keypoints, atol=1e-3)


def test_scores_and_everything_else_stay() -> None:
    path = np.random.default_rng(0).uniform(0, 100, (5, 4, 2))
    for i, got in enumerate(smooth((result(i, points, score=0.7) for i, points in enumerate(path)))):
        assert (got.index, got.poses[0].track_id, got.poses[0].bbox_score) == (i, 0, 0.9)
        np.testing.assert_allclose(got.poses[0].keypoints[:, 2], 0.7)
        assert got.poses[0].keypoints.dtype == np.float32


@pytest.mark.parametrize(
    "options", [{"min_cutoff": 0}, {"beta": -1}, {"beta": float("nan")}, {"min_cutoff": float("inf")}]
)
def test_values_that_cannot_be(options) -> None:
    with pytest.raises(InputError, match="expected more than 0"):
        OneEuro(**options)


@given(
    hnp.arrays(np.float64, (10, 2, 2), elements=st.floats(-1e4, 1e4)),
    st.lists(st.tuples(st.integers(-100, 100), st.sets(st.integers(0, 2))), min_size=10, max_size=10),
    st.floats(0, 1),
)
def test_clocks_that_stand_still_or_go_backwards(path, frames, score) -> None:
    """Whatever the order of the indices, poses stay finite and among what was seen, and nobody new is remembered."""
    one_euro = OneEuro()
    for points, (index, people) in zip(path, frames, strict=True):
        poses = [result(index, points, score, track_id).poses[0] for track_id in people]
        got = one_euro(FrameResult(index, index, None, index, None, poses))
        assert [pose.track_id for pose in got.poses] == list(people)
        for pose in got.poses:
            assert np.isfinite(pose.keypoints).all()
            assert (pose.keypoints[:, :2] >= path.min((0, 1)) - 1e-2).all()
            assert (pose.keypoints[:, :2] <= path.max((0, 1)) + 1e-2).all()
    assert set(one_euro._states) <= {0, 1, 2}


def test_after_a_step_backwards_the_filter_starts_anew() -> None:
    one_euro = OneEuro()
    near, far = np.zeros((1, 2)), np.full((1, 2), 300.0)
    for index in (10, 11):
        one_euro(result(index, near))
    np.testing.assert_array_equal(one_euro(result(5, far)).poses[0].keypoints[:, :2], far)
    np.testing.assert_array_equal(one_euro(result(6, far)).poses[0].keypoints[:, :2], far)


def test_filtering_goes_on_behind_what_was_filtered_before(rng) -> None:
    """Of the frames before, the filtered poses are all that is left: enough to go on without a jump."""
    path = np.cumsum(rng.normal(0, 3, (80, 4, 2)), axis=0)
    results = [result(i, points) for i, points in enumerate(path)]
    want = list(smooth(results))
    continued, anew = (list(smooth(results[40:], done)) for done in (want[10:40], []))

    def off(got: list[FrameResult]) -> float:
        return max(
            np.abs(a.poses[0].keypoints - b.poses[0].keypoints).max() for a, b in zip(got, want[40:], strict=True)
        )

    assert [r.index for r in continued] == list(range(40, 80))
    assert off(continued) < 0.05 * off(anew)


def swing(time: float) -> np.ndarray:
    """A joint that swings ever further and back, and once is raised within 0.4 s ``[1, 2]``; the box is 200 high."""
    x = 100 * np.sin(1.6 * np.pi * time) * np.clip(np.sin(0.3 * np.pi * time), 0, 1)
    return np.array([[x, 150 * np.clip(time - 3, 0, 0.4)]])


def at_rates(rates: list[int], score: float = 1.0) -> dict[int, np.ndarray]:
    """Filter `swing`, for a second at each rate in turn; return the filtered points by time in milliseconds."""
    steps = np.concatenate([np.full(rate, 1 / rate) for rate in rates])
    results = [
        dataclasses.replace(result(index, swing(time), score), time=time)
        for index, time in enumerate(np.concatenate([[0.0], np.cumsum(steps)]))
    ]
    return {round(1000 * each.time): each.poses[0].keypoints[0, :2] for each in smooth(results)}


@pytest.mark.parametrize("score", [1.0, 0.3])
@pytest.mark.parametrize("rates", [[10, 50], [50, 10], [50, 25], [10], [50], [100]])
def test_a_motion_is_smoothed_alike_at_any_rate(rates, score) -> None:
    """At the instants that both have. What remains is that a motion between two frames of a low rate is not seen."""
    want, got = at_rates([25] * 8, score), at_rates((rates * 8)[:8], score)
    common = sorted(set(want) & set(got))
    assert len(common) >= 8 * 5
    apart = np.array([np.linalg.norm(want[time] - got[time]) for time in common])
    behind = np.array([np.linalg.norm(want[time] - swing(time / 1000)[0]) for time in common])
    assert apart.max() < 0.2 * behind.max()  # measured: 1.8 of 10 pixels, and 4.2 of 23 at low scores
    assert apart.mean() < 0.16 * behind.mean()
