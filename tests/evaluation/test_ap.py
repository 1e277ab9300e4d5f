"""AP against cases worked out by hand, to 1e-9.

Everybody's joints lie 20 pixels apart on a line and every head measures 10 pixels, so a joint matches within 5 pixels.
"""

from __future__ import annotations

import numpy as np
import pytest

from sdtc.core.errors import InputError
from sdtc.core.skeleton import POSETRACK
from sdtc.evaluation.ap import COLUMNS, JOINTS, GroundTruth, Predictions, evaluate, head_size, inside_polygon

ALL = np.ones(15, bool)
SWAP = list(range(15))
for _left, _right in POSETRACK.flip_pairs:
    SWAP[_left], SWAP[_right] = _right, _left


def line(x: float = 0, y: float = 0) -> np.ndarray:
    """A person: keypoints ``[15, 2]``."""
    return np.stack([x + 20.0 * np.arange(15), np.full(15, float(y))], axis=1)


def off(keypoints: np.ndarray, *joints: str, by: float = 7) -> np.ndarray:
    """The same person, some joints too far away to match."""
    moved = keypoints.copy()
    moved[[JOINTS.index(joint) for joint in joints], 1] += by
    return moved


def but(*joints: str) -> np.ndarray:
    """All joints but some."""
    return np.array([joint not in joints for joint in JOINTS])


def truth(*people, num_frames: int = 1, **more) -> GroundTruth:
    """Ground truth of (frame, keypoints) or (frame, keypoints, labelled)."""
    frames, keypoints, labelled = zip(*[(*person, ALL)[:3] for person in people], strict=True)
    more = {"head_sizes": np.full(len(people), 10.0)} | more
    return GroundTruth(num_frames, np.array(frames), np.array(keypoints), np.array(labelled), **more)


def predictions(*people) -> Predictions:
    """Predictions of (frame, keypoints, score) or (frame, keypoints, score, predicted)."""
    if not people:
        return Predictions(np.zeros(0, int), np.zeros((0, 15, 2)), np.zeros((0, 15), bool), np.zeros((0, 15)))
    frames, keypoints, scores, predicted = zip(*[(*person, ALL)[:4] for person in people], strict=True)
    scores = np.array([np.broadcast_to(score, 15) for score in scores], float)
    return Predictions(np.array(frames), np.array(keypoints), np.array(predicted), scores)


def ap(ground_truth: GroundTruth, *people) -> np.ndarray:
    return evaluate(ground_truth, predictions(*people)).scores.ap


def near(value, want) -> None:
    np.testing.assert_allclose(value, want, atol=1e-9, rtol=0)


def test_perfect() -> None:
    result = evaluate(truth((0, line()), (0, line(y=50))), predictions((0, line(), 0.4), (0, line(y=50), 0.2)))
    near(result.scores.ap, [100] * 15)
    near(list(result.scores.columns.values()), [100] * 8)
    near(result.scores.precision, [100] * 15)
    near(result.scores.recall, [100] * 15)
    assert result.scores.mean_error == 0


def test_columns_are_the_papers() -> None:
    assert list(COLUMNS) == ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "Total"]
    assert {JOINTS[j] for j in COLUMNS["Head"]} == {"head_top", "head_bottom", "nose"}
    assert {JOINTS[j] for j in COLUMNS["Knee"]} == {"left_knee", "right_knee"}
    assert sorted(j for name in list(COLUMNS)[:-1] for j in COLUMNS[name]) == list(COLUMNS["Total"]) == list(range(15))


def test_swapped_left_and_right() -> None:
    """Nose, head_bottom and head_top are right; the other 12 joints lie on their twins, 20 pixels away."""
    scores = evaluate(truth((0, line())), predictions((0, line()[SWAP], 0.9))).scores
    near([scores.columns[name] for name in COLUMNS], [100, 0, 0, 0, 0, 0, 0, 100 * 3 / 15])


def test_one_joint_missing_in_the_prediction() -> None:
    scores = evaluate(truth((0, line())), predictions((0, line(), 0.9, but("left_wrist")))).scores
    assert scores.predicted[JOINTS.index("left_wrist")] == 0
    near([scores.columns["Wrist"], scores.columns["Head"], scores.total], [50, 100, 100 * 14 / 15])


def test_one_joint_off() -> None:
    scores = evaluate(truth((0, line())), predictions((0, off(line(), "nose"), 0.9))).scores
    near([scores.columns["Head"], scores.total], [100 * 2 / 3, 100 * 14 / 15])
    near(scores.mean_error, 7 / 15)


def test_a_joint_that_is_labelled_nowhere_has_no_ap() -> None:
    scores = evaluate(truth((0, line(), but("nose", "left_hip", "right_hip"))), predictions((0, line(), 0.9))).scores
    assert np.isnan(scores.ap[JOINTS.index("nose")])
    assert np.isnan(scores.columns["Hip"])
    near([scores.columns["Head"], scores.total], [100, 100])


def test_a_predicted_joint_that_its_person_has_no_label_for_is_a_false_positive() -> None:
    """Noses by score: 0.9 false (the first person has none), 0.8 true; one labelled: precision 1/2 at recall 1."""
    everybody = truth((0, line(), but("nose")), (0, line(y=50)))
    result = ap(everybody, (0, line(), 0.9), (0, line(y=50), 0.8))
    near(result[JOINTS.index("nose")], 50)
    near(np.delete(result, JOINTS.index("nose")), [100] * 14)


@pytest.mark.parametrize(("score", "want"), [(0.95, 50), (0.1, 100)])
def test_extra_person(score, want) -> None:
    """Ranked first, it halves the precision at recall 1; ranked last, it comes after recall 1."""
    near(ap(truth((0, line())), (0, line(), 0.9), (0, line(y=200), score)), [want] * 15)


def test_equal_scores_are_one_step_in_any_order() -> None:
    """One true and one false positive of the same score: precision 1/2 at recall 1."""
    people = [(0, line(), 0.9), (0, line(y=200), 0.9)]
    near(ap(truth((0, line())), *people), [50] * 15)
    near(ap(truth((0, line())), *people[::-1]), [50] * 15)


SQUARE = np.array([[-10.0, 150], [400, 150], [400, 250], [-10, 250]])


def test_ignored_region_swallows_predictions() -> None:
    everybody = truth((0, line()), ignore_regions={0: [SQUARE]})
    people = [(0, line(), 0.5), (0, line(y=200), 0.9)]
    near(ap(everybody, *people), [100] * 15)
    near(ap(truth((0, line())), *people), [50] * 15)
    near(ap(truth((0, line()), ignore_regions={0: [SQUARE + 1000, SQUARE]}), *people), [100] * 15)


def test_ignored_region_is_of_one_frame_only() -> None:
    everybody = truth((0, line()), (1, line()), num_frames=2, ignore_regions={0: [SQUARE]})
    people = [(0, line(), 0.5), (1, line(), 0.5), (1, line(y=200), 0.9)]
    near(ap(everybody, *people), [100 * 2 / 3] * 15)  # false, then two true ones together: precision 2/3 at recall 1


def test_ignored_region_swallows_labels() -> None:
    """The second person is not missed, since it lies in the region; the first is missed without it."""
    people = truth((0, line()), (0, line(y=200)))
    near(ap(people, (0, line(), 0.5)), [50] * 15)
    ignoring = truth((0, line()), (0, line(y=200)), ignore_regions={0: [SQUARE]})
    result = evaluate(ignoring, predictions((0, line(), 0.5)))
    near(result.scores.ap, [100] * 15)
    np.testing.assert_array_equal(result.scores.labelled, [1] * 15)


def test_ignored_region_takes_single_joints_and_changes_the_shares() -> None:
    """Without its last ten joints the first prediction matches 4 of 5 and the second 5 of 5; with them 14 and 10 of 15.

    So the second one is kept. Joints: nose, head_bottom, head_top, left_shoulder, right_shoulder remain; by score, the
    first prediction's 0.9 is false and the second's 0.5 true.
    """
    region = np.array([[95.0, -50], [400, -50], [400, 50], [95, 50]])  # from the sixth joint, x = 100, on
    first, second = off(line(), "nose"), line()
    second[10:, 1] += 7
    result = evaluate(truth((0, line()), ignore_regions={0: [region]}), predictions((0, first, 0.9), (0, second, 0.5)))
    near(result.scores.ap[:5], [50] * 5)
    assert np.isnan(result.scores.ap[5:]).all()
    near(result.scores.total, 50)


def test_inside_is_strict_and_even_odd() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    points = np.array([[5, 5], [0, 5], [5, 0], [10, 5], [5, 10], [0, 0], [10, 10], [11, 5], [-1, 5], [5, 11]], float)
    for polygon in (square, square[::-1], np.vstack([square, square[:1]]), np.roll(square, 1, axis=0)):
        np.testing.assert_array_equal(inside_polygon(points, polygon), [True] + [False] * 9)
    twice = np.vstack([square, square[:1], square + np.array([5, 0])])  # overlaps itself in 5 < x < 10
    np.testing.assert_array_equal(inside_polygon(np.array([[2.0, 5], [7, 4], [12, 5]]), twice), [True, False, True])
    assert not inside_polygon(points, square[:2]).any()
    assert not inside_polygon(points, square[:0]).any()


def test_inside_agrees_with_opencv(rng) -> None:
    import cv2

    for _ in range(20):
        angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
        radii = rng.integers(20, 60, 12)
        polygon = np.rint(100 + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1))
        points = rng.integers(30, 170, (200, 2)).astype(float)  # whole numbers: some lie on edges
        contour = polygon.astype(np.float32)
        want = [cv2.pointPolygonTest(contour, point, False) > 0 for point in points.tolist()]
        np.testing.assert_array_equal(inside_polygon(points, polygon), want)


def test_two_predictions_on_one_person() -> None:
    """The one with more matched joints is kept, whatever the scores: 0.9 is false in all its joints, 0.5 true."""
    near(ap(truth((0, line())), (0, off(line(), "nose"), 0.9), (0, line(), 0.5)), [50] * 15)


@pytest.mark.parametrize(("scores", "want"), [((0.9, 0.5), 100), ((0.5, 0.9), 50)])
def test_of_two_equally_good_predictions_the_first_is_kept(scores, want) -> None:
    near(ap(truth((0, line())), *((0, line(), score) for score in scores)), [want] * 15)


def test_a_prediction_keeps_one_person_only() -> None:
    """It fits both; the second person is missed: recall 1/2 at precision 1. Which one it keeps shows in the labels."""
    near(ap(truth((0, line()), (0, line(y=1))), (0, line(), 0.9)), [50] * 15)
    tied = truth((0, line(), but("nose")), (0, line(y=1)))
    near(ap(tied, (0, line(), 0.9))[JOINTS.index("nose")], 0)  # the first of two equals, which has no nose


def test_a_prediction_that_lost_its_person_gets_no_other() -> None:
    """Both fit the first person best (15 and 12 of 15); the second fits the other person too (3 of 15), who stays free.

    By score: 0.9 (the second) false, 0.5 true, of two people: precision 1/2 at recall 1/2.
    """
    other = line(y=300)
    second = line()
    second[:3] = other[:3]
    near(ap(truth((0, line()), (0, other)), (0, line(), 0.5), (0, second, 0.9)), [25] * 15)


def test_the_share_counts_labelled_joints() -> None:
    """3 of the first person's 15 joints against 3 of the second's 4: the second person is kept."""
    first = line()
    second = line(y=300)
    guess = first.copy()
    guess[3:] = 1000
    labelled = np.arange(15) < 4
    result = ap(truth((0, first), (0, second, labelled)), (0, guess, 0.9))
    near(result[:3], [50] * 3)
    shifted = second.copy()
    shifted[:3] = first[:3]
    result = ap(truth((0, first), (0, shifted, labelled)), (0, guess, 0.9), (0, first, 0.5))
    # The guess goes to the second person (3/4 > 3/15), the other prediction to the first: all noses are true.
    near(result[:3], [100] * 3)


def test_frames_without_annotation_are_dropped_with_their_predictions() -> None:
    result = evaluate(
        truth((1, line()), num_frames=3), predictions((0, line(), 0.9), (1, line(), 0.5), (2, line(y=200), 0.95))
    )
    near(result.scores.ap, [100] * 15)
    assert (result.counts.frames, result.counts.frames_unannotated, result.counts.predictions_dropped) == (1, 2, 2)


def test_frames_without_predictions_are_missed() -> None:
    result = evaluate(truth((0, line()), (1, line()), num_frames=2), predictions((1, line(), 0.9)))
    near(result.scores.ap, [50] * 15)
    assert (result.counts.frames, result.counts.frames_unpredicted, result.counts.people_found) == (2, 1, 1)


def test_no_predictions_at_all() -> None:
    result = evaluate(truth((0, line()), (0, line(), but("nose"))), predictions())
    near(result.scores.ap, [0] * 15)
    assert np.isnan(result.scores.precision).all()
    near(result.scores.recall, [0] * 15)
    assert np.isnan(result.scores.mean_error)


def test_a_person_without_labelled_joints_keeps_its_frame() -> None:
    """As in poseval: predictions there are false positives."""
    everybody = truth((0, line()), (1, line(), ~ALL), num_frames=2)
    near(ap(everybody, (0, line(), 0.5), (1, line(), 0.9)), [50] * 15)


def test_the_distance_limit_is_inclusive_and_relative_to_the_head() -> None:
    def at(distance: float, head: float) -> float:
        return ap(truth((0, line()), head_sizes=np.array([head])), (0, line(y=distance), 1))[0]

    assert at(5, 10) == 100
    assert at(5 + 1e-6, 10) == 0
    assert at(10, 20) == 100


def test_a_head_without_size_matches_nothing() -> None:
    near(ap(truth((0, line()), head_sizes=np.zeros(1)), (0, line(), 1)), [0] * 15)


def test_head_size() -> None:
    near(head_size([[7, 8, 30, 40], [0, 0, 0, 0]]), [30, 0])  # 0.6 × 50


def test_a_curve_by_hand() -> None:
    """Three people in two frames, four predictions.

    Score 0.9 is right; 0.85 is a ghost; 0.8 is right but for both wrists; 0.6 is right.
    Most joints, n = 3: true false true true: recall 1/3 1/3 2/3 1, precision 1 1/2 2/3 3/4, envelope 1 3/4 3/4 3/4,
        AP = 1/3 · 1 + 1/3 · 3/4 + 1/3 · 3/4 = 5/6.
    Wrists: true false false true: recall 1/3 1/3 1/3 2/3, precision 1 1/2 1/3 1/2, envelope 1 1/2 1/2 1/2,
        AP = 1/3 · 1 + 1/3 · 1/2 = 1/2.
    Total = (13 · 5/6 + 2 · 1/2) / 15 = 71/90.
    """
    everybody = truth((0, line()), (0, line(y=50)), (1, line(y=100)), num_frames=2)
    scores = evaluate(
        everybody,
        predictions(
            (0, off(line(y=50), "left_wrist", "right_wrist"), 0.8),
            (1, line(y=400), 0.85),
            (0, line(), 0.9),
            (1, line(y=100), 0.6),
        ),
    ).scores
    wrist = JOINTS.index("left_wrist")
    near([scores.columns["Head"], scores.columns["Wrist"], scores.total], [500 / 6, 50, 7100 / 90])
    near(scores.curves[0].recall, [1 / 3, 1 / 3, 2 / 3, 1])
    near(scores.curves[0].precision, [1, 1 / 2, 2 / 3, 3 / 4])
    near(scores.curves[0].envelope, [1, 3 / 4, 3 / 4, 3 / 4])
    near(scores.curves[wrist].precision, [1, 1 / 2, 1 / 3, 1 / 2])
    near([scores.precision[wrist], scores.recall[wrist]], [50, 200 / 3])
    near(scores.mean_error, 7 * 2 / 45)


def test_joints_are_ranked_by_their_own_scores() -> None:
    """The ghost's nose is sure and its ankles are not: 50 for the nose, 100 for the ankles."""
    ghost = np.full(15, 0.1)
    ghost[JOINTS.index("nose")] = 0.95
    result = ap(truth((0, line())), (0, line(), 0.5), (0, line(y=200), ghost))
    near(result[JOINTS.index("nose")], 50)
    near(np.delete(result, JOINTS.index("nose")), [100] * 14)


class TestLabels:
    """An easy person and a hard one in the same frame."""

    def rows(self, *people, labels=(frozenset(), frozenset({"hard"})), second=None):
        everybody = truth((0, line()), (0, line(y=50) if second is None else second), labels=labels)
        return evaluate(everybody, predictions(*people)).by_label

    def test_predictions_of_others_are_ignored(self) -> None:
        """The easy person is found only by a wrong nose; the hard one perfectly, at a lower score."""
        rows = self.rows((0, off(line(), "nose"), 0.9), (0, line(y=50), 0.5))
        assert list(rows) == ["hard", "none"]
        near(rows["hard"].ap, [100] * 15)
        near(rows["none"].columns["Head"], 200 / 3)
        assert (rows["hard"].people, rows["none"].people) == (1, 1)

    def test_a_false_positive_counts_where_it_was_meant(self) -> None:
        """At 0.95 the hard person's prediction misses all joints by 8 pixels; at 0.5 there is a good one.

        Everybody: false 0.95, true 0.9, true 0.5: precision 0 1/2 2/3, AP 2/3. Hard: false, true: 1/2. Easy: 1.
        """
        people = [(0, line(), 0.9), (0, line(y=58), 0.95), (0, line(y=50), 0.5)]
        rows = self.rows(*people)
        near(rows["hard"].ap, [50] * 15)
        near(rows["none"].ap, [100] * 15)
        near(ap(truth((0, line()), (0, line(y=50))), *people), [200 / 3] * 15)
        np.testing.assert_array_equal(rows["hard"].predicted + rows["none"].predicted, [3] * 15)

    def test_near_is_in_head_sizes(self) -> None:
        """24 pixels from the easy person's head of 10 are farther than 26 from the hard person's head of 20."""
        everybody = truth(
            (0, line()), (0, line(y=50)), labels=(frozenset(), frozenset({"hard"})), head_sizes=np.array([10.0, 20.0])
        )
        rows = evaluate(everybody, predictions((0, line(y=24), 0.9))).by_label
        np.testing.assert_array_equal(rows["hard"].predicted, [1] * 15)
        np.testing.assert_array_equal(rows["none"].predicted, [0] * 15)

    def test_a_duplicate_counts_where_most_of_its_joints_match(self) -> None:
        """A second prediction matches one joint of the hard person; the rest lies on no one, nearer to the easy one."""
        stray = line(y=8)
        stray[0] = line(y=50)[0]
        rows = self.rows((0, line(), 0.9), (0, line(y=50), 0.5), (0, stray, 0.7))
        near(rows["hard"].ap, [50] * 15)
        near(rows["none"].ap, [100] * 15)

    def test_false_positives_in_frames_of_others_do_not_count(self) -> None:
        everybody = truth((0, line()), (1, line()), num_frames=2, labels=(frozenset(), frozenset({"hard"})))
        result = evaluate(everybody, predictions((0, line(), 0.5), (0, line(y=200), 0.9), (1, line(), 0.4)))
        near(result.by_label["hard"].ap, [100] * 15)
        near(result.by_label["none"].ap, [50] * 15)

    def test_one_person_may_carry_several(self) -> None:
        both = frozenset({"blur", "occluded"})
        rows = self.rows((0, line(), 0.9), labels=(both, frozenset({"blur"})))
        assert {name: row.people for name, row in rows.items()} == {"blur": 2, "occluded": 1}
        near(rows["blur"].ap, [50] * 15)
        near(rows["occluded"].ap, [100] * 15)

    def test_people_out_of_order(self) -> None:
        """Labels follow their people when these are sorted by frame."""
        labels = (frozenset({"late"}), frozenset({"early"}))
        everybody = truth((1, line()), (0, line()), num_frames=2, labels=labels)
        rows = evaluate(everybody, predictions((1, line(), 0.9))).by_label
        near(rows["late"].ap, [100] * 15)
        near(rows["early"].ap, [0] * 15)

    def test_no_labels_no_rows(self) -> None:
        assert self.rows((0, line(), 0.9), labels=()) == {}

    def test_a_prediction_without_a_common_joint_is_charged_to_nobody(self) -> None:
        labels = (frozenset(), frozenset({"hard"}))
        everybody = truth((0, line(), but("nose")), (0, line(y=50), but("nose")), labels=labels)
        result = evaluate(everybody, predictions((0, line(), 0.9, ~but("nose"))))
        assert result.scores.predicted[0] == 1
        assert result.by_label["hard"].predicted[0] == result.by_label["none"].predicted[0] == 0


def test_refusals() -> None:
    nobody = GroundTruth(3, np.zeros(0, int), np.zeros((0, 15, 2)), np.zeros((0, 15), bool), np.zeros(0))
    with pytest.raises(InputError, match="no annotated person"):
        evaluate(nobody, predictions())
    with pytest.raises(InputError, match="NaN or infinity"):
        predictions((0, line() * np.nan, 1))
    with pytest.raises(InputError, match="NaN or infinity"):
        predictions((0, line(), np.inf))
    with pytest.raises(InputError, match=r"shape \[1, 17, 2\]: expected \[1, 15, 2\]"):
        truth((0, np.zeros((17, 2))))
    with pytest.raises(InputError, match="outside 0 to 0"):
        truth((1, line()))
    with pytest.raises(InputError, match="labels for 2 people"):
        truth((0, line()), labels=(frozenset(), frozenset()))


def test_absent_joints_may_be_anything() -> None:
    keypoints = line()
    keypoints[0] = np.nan
    near(ap(truth((0, keypoints, but("nose"))), (0, keypoints, 0.9, but("nose")))[1:], [100] * 14)
    far = off(line(), "nose", by=1000)
    for labelled, predicted in ((but("nose"), ALL), (ALL, but("nose"))):
        result = evaluate(truth((0, line(), labelled)), predictions((0, far, 0.9, predicted)))
        assert result.scores.mean_error == 0
