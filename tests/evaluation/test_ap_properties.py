"""AP against a slow, plain implementation on random scenes, and what must hold for any scene."""

from __future__ import annotations

import dataclasses
import math
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sdtc.evaluation.ap as module
from sdtc.evaluation.ap import COLUMNS, GroundTruth, Predictions, evaluate

SEEDS = st.integers(0, 2**32 - 1)
LABELS = ("blur", "dark", "occluded")
fast = settings(max_examples=100, deadline=None)


def scene(seed: int, apart: bool = False) -> tuple[GroundTruth, Predictions]:
    """A few frames of people and predictions, in no order, with ties of every kind; apart: nobody near another."""
    rng = np.random.default_rng(seed)
    num_frames, people, guesses = int(rng.integers(1, 5)), [], []
    for frame in range(num_frames):
        here = []
        for number in range(rng.integers(0, 4)):
            # Whole pixels and few of them, so that distances and shares tie; people may lie on each other.
            start = [1000 * number, 0] if apart else rng.integers(0, 30, 2)
            here.append((start + rng.integers(0, 60, (15, 2)), rng.random(15) < rng.choice([0.0, 0.5, 0.9, 1.0])))
        people += [(frame, *person, rng.choice([0, 10, 10, 25]), rng.random(3) < 0.3) for person in here]
        for keypoints, labelled in here * 2:
            if rng.random() < 0.7:
                noise = rng.integers(-6, 7, (15, 2)) * (rng.random((15, 1)) < 0.6)
                guesses.append((frame, keypoints + noise, labelled | (rng.random(15) < 0.5)))
        for _ in range(rng.integers(0, 3)):
            guesses.append((frame, rng.integers(0, 90, (15, 2)), rng.random(15) < 0.8))
    rng.shuffle(people)
    rng.shuffle(guesses)
    regions = {}
    for frame in range(num_frames):
        if rng.random() < 0.5:  # no corner or edge goes through a whole pixel, so nobody is on one
            regions[frame] = [rng.uniform(-20, 90, (rng.integers(3, 6), 2)) for _ in range(2)]
    labels = tuple(frozenset(np.array(LABELS)[list(person[4])].tolist()) for person in people)
    truth = GroundTruth(
        num_frames,
        frames=np.array([person[0] for person in people], np.int64),
        keypoints=np.array([person[1] for person in people], float).reshape(-1, 15, 2),
        labelled=np.array([person[2] for person in people], bool).reshape(-1, 15),
        head_sizes=np.array([person[3] for person in people], float),
        ignore_regions=regions,
        labels=labels if any(labels) else (),
    )
    count = len(guesses)
    scores = rng.random((count, 15)) if rng.random() < 0.5 else rng.integers(0, 4, (count, 15)) / 4
    predictions = Predictions(
        np.array([guess[0] for guess in guesses], np.int64),
        np.array([guess[1] for guess in guesses], float).reshape(-1, 15, 2),
        np.array([guess[2] for guess in guesses], bool).reshape(-1, 15),
        scores,
    )
    return truth, predictions


def inhabited(seed: int, apart: bool = False) -> tuple[GroundTruth, Predictions]:
    """The first scene from this seed on that has anybody in it."""
    truth, predictions = scene(seed, apart)
    return (truth, predictions) if len(truth.frames) else inhabited(seed + 1, apart)


def slow_inside(x: float, y: float, polygon: np.ndarray) -> bool:
    """Even-odd by counting edges above the point; no corner ever has its x."""
    inside = False
    corners = polygon.tolist()
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if min(x1, x2) < x < max(x1, x2) and y1 + (x - x1) * (y2 - y1) / (x2 - x1) > y:
            inside = not inside
    return inside


def slow_ap(ranked: list[tuple[float, bool]], labelled: int) -> float:
    """Mean over the labelled joints: the k-th one counts the best precision at which k of them are found."""
    if labelled == 0:
        return math.nan
    points = []
    for threshold in {score for score, _ in ranked}:
        chosen = [hit for score, hit in ranked if score >= threshold]
        points.append((sum(chosen), sum(chosen) / len(chosen)))
    best = [max((p for found, p in points if found >= k), default=0.0) for k in range(1, labelled + 1)]
    return 100 * sum(best) / labelled


def slow(truth: GroundTruth, predictions: Predictions) -> dict[str, list[float]]:
    """AP by joint: under "" of everybody, else of a label."""

    def visible(present: np.ndarray, keypoints: np.ndarray, frame: int) -> list[int]:
        regions = truth.ignore_regions.get(frame, [])
        return [
            j for j in range(15) if present[j] and not any(slow_inside(*keypoints[j], region) for region in regions)
        ]

    rows: dict[str, tuple[list, list]] = {}

    def row(name: str) -> tuple[list, list]:
        return rows.setdefault(name, ([[] for _ in range(15)], [0] * 15))

    for frame in sorted(set(truth.frames.tolist())):
        people = [i for i in range(len(truth.frames)) if truth.frames[i] == frame]
        joints = {i: visible(truth.labelled[i], truth.keypoints[i], frame) for i in people}
        names = {i: (truth.labels[i] or {"none"}) if truth.labels else set() for i in people}
        for i in people:
            for name in ["", *names[i]]:
                for j in joints[i]:
                    row(name)[1][j] += 1
                row(name)
        guesses = [i for i in range(len(predictions.frames)) if predictions.frames[i] == frame]
        mine = {i: visible(predictions.predicted[i], predictions.keypoints[i], frame) for i in guesses}
        share: dict[tuple[int, int], float] = {}
        distance: dict[tuple[int, int], float] = {}
        hits: dict[tuple[int, int], list[int]] = {}
        for g in guesses:
            for i in people:
                apart = {
                    j: math.dist(truth.keypoints[i][j], predictions.keypoints[g][j]) for j in joints[i] if j in mine[g]
                }
                head = truth.head_sizes[i]
                hits[g, i] = [j for j, d in apart.items() if head and d / head <= 0.5]
                share[g, i] = len(hits[g, i]) / max(len(joints[i]), 1)
                known = [d / head if head else math.inf for d in apart.values()]
                distance[g, i] = sum(known) / len(known) if known else math.inf
        choice = {}
        for g in guesses:
            best = people[0]
            for i in people:
                if share[g, i] > share[g, best]:
                    best = i
            choice[g] = best
        for i in people:
            winner = None
            for g in guesses:
                if choice[g] == i and share[g, i] > (share[winner, i] if winner is not None else 0):
                    winner = g
            for g in guesses:
                if choice[g] != i:
                    continue
                charged = i
                if share[g, i] == 0:
                    charged = min(people, key=lambda i, g=g: distance[g, i])
                    if distance[g, charged] == math.inf:
                        charged = None
                for name in ["", *(names[charged] if charged is not None else [])]:
                    for j in mine[g]:
                        row(name)[0][j].append((predictions.scores[g][j], g == winner and j in hits[g, i]))
    if set(rows) <= {"", "none"}:
        rows.pop("none", None)
    return {name: [slow_ap(ranked[j], counts[j]) for j in range(15)] for name, (ranked, counts) in rows.items()}


@fast
@given(SEEDS)
def test_equals_the_slow_implementation(seed: int) -> None:
    truth, predictions = inhabited(seed)
    want = slow(truth, predictions)
    result = evaluate(truth, predictions)
    np.testing.assert_allclose(result.scores.ap, want.pop(""), atol=1e-9, rtol=0)
    assert set(result.by_label) == set(want)
    for name, row in result.by_label.items():
        np.testing.assert_allclose(row.ap, want[name], atol=1e-9, rtol=0, err_msg=name)


def test_scenes_are_not_trivial() -> None:
    """The scenes above hold what they promise: the whole range of AP, ties, regions, labels, empty frames."""
    totals, ties, labels, unpredicted = [], 0, set(), 0
    for seed in range(100):
        truth, predictions = inhabited(seed)
        result = evaluate(truth, predictions)
        totals.append(result.scores.total)
        ties += len(np.unique(predictions.scores)) < predictions.scores.size
        labels |= set(result.by_label)
        unpredicted += result.counts.frames_unpredicted
    assert np.nanpercentile(totals, 10) < 15
    assert np.nanpercentile(totals, 90) > 50
    assert 20 < ties < 80
    assert labels == {*LABELS, "none"}
    assert unpredicted


@pytest.mark.parametrize("most", [1, 7, 40])
def test_blocks_change_nothing(monkeypatch, most) -> None:
    """Pairs are worked off in blocks of whole frames; these scenes are too small to need several."""
    scenes = [inhabited(seed) for seed in range(40)]
    want = [evaluate(*scene) for scene in scenes]
    monkeypatch.setattr(module, "_MAX_PAIRS", most)
    blocks = []
    assign = module._assign_block
    monkeypatch.setattr(module, "_assign_block", lambda *args: blocks.append(args[3]) or assign(*args))
    for scene_, expected in zip(scenes, want, strict=True):
        got = evaluate(*scene_)
        np.testing.assert_array_equal(got.scores.ap, expected.scores.ap)
        assert got.counts == expected.counts
    assert len(blocks) > 40


@fast
@given(SEEDS)
def test_ap_is_a_percentage_and_columns_are_means(seed: int) -> None:
    scores = evaluate(*inhabited(seed)).scores
    known = scores.ap[~np.isnan(scores.ap)]
    assert ((known >= 0) & (known <= 100)).all()
    for name, joints in COLUMNS.items():
        values = [scores.ap[j] for j in joints if scores.labelled[j]]
        np.testing.assert_allclose(scores.columns[name], np.mean(values) if values else np.nan)
    for curve in scores.curves:
        assert (np.diff(curve.recall) >= 0).all()
        assert (np.diff(curve.envelope) <= 0).all()
        assert (curve.envelope >= curve.precision).all()


@fast
@given(SEEDS)
def test_perfect_predictions_give_100(seed: int) -> None:
    truth, _ = inhabited(seed, apart=True)
    truth = dataclasses.replace(truth, head_sizes=truth.head_sizes + 1)
    scores = np.random.default_rng(seed).random(truth.labelled.shape)
    result = evaluate(truth, Predictions(truth.frames, truth.keypoints, truth.labelled, scores))
    for row in (result.scores, *result.by_label.values()):
        np.testing.assert_array_equal(row.ap[row.labelled > 0], 100)


@pytest.mark.slow
@fast
@given(SEEDS, st.randoms())
def test_the_order_of_frames_does_not_matter(seed: int, random) -> None:
    truth, predictions = inhabited(seed)
    new = list(range(truth.num_frames))
    random.shuffle(new)
    other_truth = dataclasses.replace(
        truth,
        frames=np.array(new)[truth.frames],
        ignore_regions={new[frame]: polygons for frame, polygons in truth.ignore_regions.items()},
    )
    other = dataclasses.replace(predictions, frames=np.array(new)[predictions.frames])
    assert_same(evaluate(truth, predictions), evaluate(other_truth, other))


@pytest.mark.slow
@fast
@given(SEEDS)
def test_the_order_of_people_does_not_matter(seed: int) -> None:
    """But for equal shares, which the order decides, as in poseval: nobody is equally good here."""
    rng = np.random.default_rng(seed)
    truth, _ = inhabited(seed, apart=True)
    truth = dataclasses.replace(
        truth, head_sizes=truth.head_sizes + 1, labelled=np.ones_like(truth.labelled), ignore_regions={}
    )
    people = np.repeat(np.arange(len(truth.frames)), 3)
    keypoints = truth.keypoints[people].copy()
    for number in range(len(people)):  # the k-th prediction of a person is wrong in 3k, 3k + 1 or 3k + 2 joints
        wrong = 3 * (number % 3) + rng.integers(3)
        keypoints[number, rng.permutation(15)[:wrong]] += 100
    predictions = Predictions(
        truth.frames[people], keypoints, np.ones((len(people), 15), bool), rng.integers(0, 5, (len(people), 15)) / 4
    )
    one, two = rng.permutation(len(truth.frames)), rng.permutation(len(people))
    other_truth = dataclasses.replace(
        truth,
        frames=truth.frames[one],
        keypoints=truth.keypoints[one],
        labelled=truth.labelled[one],
        head_sizes=truth.head_sizes[one],
        labels=tuple(truth.labels[i] for i in one) if truth.labels else (),
    )
    other = Predictions(
        predictions.frames[two], predictions.keypoints[two], predictions.predicted[two], predictions.scores[two]
    )
    assert_same(evaluate(truth, predictions), evaluate(other_truth, other))


@pytest.mark.slow
@fast
@given(SEEDS, st.sampled_from(["lowest", "any"]))
def test_another_false_positive_never_raises_ap(seed: int, score: str) -> None:
    truth, predictions = inhabited(seed)
    rng = np.random.default_rng(seed)
    added = rng.random(15) if score == "any" else np.full(15, -1.0)
    more = Predictions(
        np.append(predictions.frames, truth.frames[0]),
        np.concatenate([predictions.keypoints, np.full((1, 15, 2), 1e5)]),
        np.concatenate([predictions.predicted, np.ones((1, 15), bool)]),
        np.concatenate([predictions.scores, added[None]]),
    )
    before, after = evaluate(truth, predictions).scores, evaluate(truth, more).scores
    known = before.labelled > 0
    assert (after.ap[known] <= before.ap[known] + 1e-9).all()
    np.testing.assert_array_equal(after.predicted, before.predicted + 1)
    if score == "lowest":
        np.testing.assert_allclose(after.ap, before.ap, atol=1e-9)


@pytest.mark.slow
@fast
@given(SEEDS)
def test_only_the_order_of_scores_matters(seed: int) -> None:
    truth, predictions = inhabited(seed)
    scaled = [8 * predictions.scores - 1024, np.searchsorted(np.unique(predictions.scores), predictions.scores) ** 3.0]
    want = evaluate(truth, predictions)
    for scores in scaled:
        assert_same(want, evaluate(truth, dataclasses.replace(predictions, scores=scores)))


@fast
@given(SEEDS)
def test_a_label_that_everybody_carries_is_the_whole_set(seed: int) -> None:
    """As long as every prediction has a person to be charged to: everybody is labelled and has a head."""
    truth, predictions = inhabited(seed)
    truth = dataclasses.replace(
        truth,
        head_sizes=truth.head_sizes + 1,
        labelled=np.ones_like(truth.labelled),
        ignore_regions={},
        labels=(frozenset({"all"}),) * len(truth.frames),
    )
    result = evaluate(truth, predictions)
    assert list(result.by_label) == ["all"]
    np.testing.assert_array_equal(result.by_label["all"].ap, result.scores.ap)
    np.testing.assert_array_equal(result.by_label["all"].predicted, result.scores.predicted)


def assert_same(one, two) -> None:
    np.testing.assert_allclose(one.scores.ap, two.scores.ap, atol=1e-9, rtol=0)
    np.testing.assert_array_equal(one.scores.matched, two.scores.matched)
    assert one.counts == two.counts
    assert set(one.by_label) == set(two.by_label)
    for name, row in one.by_label.items():
        np.testing.assert_allclose(row.ap, two.by_label[name].ap, atol=1e-9, rtol=0)


def test_ten_thousand_frames_take_seconds(rng) -> None:
    """The arrays take two, as nothing is called for every frame or person, and memory grows no faster than the frames.

    Measured on a tenth of them and on a fortieth.
    """

    def measured(num_frames: int) -> tuple[int, int]:
        """Calls of Python functions, and the most bytes held at once."""
        people = 5 * num_frames
        frames = np.repeat(np.arange(num_frames), 5)
        keypoints = rng.uniform(0, 1000, (people, 15, 2))
        truth = GroundTruth(num_frames, frames, keypoints, np.ones((people, 15), bool), np.full(people, 40.0))
        noisy = keypoints + rng.normal(0, 15, keypoints.shape)
        predictions = Predictions(frames, noisy, np.ones((people, 15), bool), rng.random((people, 15)))
        assert 30 < evaluate(truth, predictions).scores.total < 90
        calls = 0

        def count(_frame, event, _function) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        before = sys.getprofile()
        sys.setprofile(count)
        try:
            evaluate(truth, predictions)
        finally:
            sys.setprofile(before)
        tracemalloc.start()
        try:
            evaluate(truth, predictions)
            return calls, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    (few_calls, little), (calls, much) = measured(250), measured(1000)
    assert calls < few_calls + 250
    assert much < 5 * little
