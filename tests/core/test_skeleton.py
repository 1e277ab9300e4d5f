from __future__ import annotations

import numpy as np
import pytest

from sdtc.core.errors import ConfigError
from sdtc.core.posetrack import POSETRACK_CATEGORY, from_slots, image_id, sequence_id, to_slots
from sdtc.core.skeleton import COCO, POSETRACK, get_skeleton


def test_posetrack_keeps_15_of_17_slots() -> None:
    assert len(POSETRACK.keypoints) == 15
    kept = [0, 1, 2, *range(5, 17)]
    assert POSETRACK.keypoints == tuple(POSETRACK_CATEGORY["keypoints"][slot] for slot in kept)


@pytest.mark.parametrize("skeleton", [POSETRACK, COCO], ids=lambda s: s.name)
def test_flip_pairs_join_left_and_right(skeleton) -> None:
    for left, right in skeleton.flip_pairs:
        assert skeleton.keypoints[left].replace("left", "right") == skeleton.keypoints[right]
    flipped = {index for pair in skeleton.flip_pairs for index in pair}
    alone = [name for i, name in enumerate(skeleton.keypoints) if i not in flipped]
    assert not any(name.startswith(("left", "right")) for name in alone)


def test_head_bottom_and_top_are_not_a_pair() -> None:
    indices = [POSETRACK.keypoints.index(name) for name in ("head_bottom", "head_top")]
    assert not any(set(pair) & set(indices) for pair in POSETRACK.flip_pairs)


def test_slots_round_trip(rng) -> None:
    keypoints = rng.normal(size=(4, 15, 3))
    slots = to_slots(keypoints)
    assert slots.shape == (4, 17, 3)
    assert not slots[:, 3:5].any()  # ears
    np.testing.assert_array_equal(from_slots(slots), keypoints)


def test_image_ids_are_those_of_posetrack18() -> None:
    assert image_id("012834", 0) == 10128340000
    assert sequence_id("012834_mpii_test") == "012834"
    assert sequence_id("my_video") is None


def test_unknown_skeleton_names_the_known() -> None:
    with pytest.raises(ConfigError, match="posetrack, coco"):
        get_skeleton("openpose")
