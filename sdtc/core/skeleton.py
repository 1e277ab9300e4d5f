"""The skeletons: keypoint names, flip pairs and limbs, defined here only."""

from __future__ import annotations

from dataclasses import dataclass

from sdtc.core.errors import ConfigError

# The 17 slots of a PoseTrack annotation; the two ears are never annotated (paper, section 8).
POSETRACK_SLOTS = (
    "nose", "head_bottom", "head_top", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
    "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
    "left_knee", "right_knee", "left_ankle", "right_ankle",
)  # fmt: skip


@dataclass(frozen=True)
class Skeleton:
    """One set of keypoints.

    Attributes:
        name: ``"posetrack"`` or ``"coco"``.
        keypoints: names in output order; J is their number.
        limbs: pairs of keypoint indices that are drawn as lines.
    """

    name: str
    keypoints: tuple[str, ...]
    limbs: tuple[tuple[int, int], ...]

    @property
    def flip_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoint indices that are swapped in a mirrored image."""
        index = {name: i for i, name in enumerate(self.keypoints)}
        return tuple(
            (i, index["right" + name.removeprefix("left")]) for name, i in index.items() if name.startswith("left_")
        )


def _skeleton(name: str, keypoints: tuple[str, ...], limbs: str) -> Skeleton:
    index = {keypoint: i for i, keypoint in enumerate(keypoints)}
    pairs = (limb.split("-") for limb in limbs.split())
    return Skeleton(name, keypoints, tuple((index[a], index[b]) for a, b in pairs))


_BODY_LIMBS = (
    "left_shoulder-left_elbow left_elbow-left_wrist right_shoulder-right_elbow right_elbow-right_wrist "
    "left_shoulder-left_hip right_shoulder-right_hip left_hip-right_hip "
    "left_hip-left_knee left_knee-left_ankle right_hip-right_knee right_knee-right_ankle "
)

POSETRACK = _skeleton(
    "posetrack",
    tuple(slot for slot in POSETRACK_SLOTS if not slot.endswith("_ear")),
    _BODY_LIMBS + "head_top-nose nose-head_bottom head_bottom-left_shoulder head_bottom-right_shoulder",
)

COCO = _skeleton(
    "coco",
    (
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder",
        "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip",
        "left_knee", "right_knee", "left_ankle", "right_ankle",
    ),
    _BODY_LIMBS + "left_shoulder-right_shoulder nose-left_eye nose-right_eye left_eye-left_ear right_eye-right_ear",
)  # fmt: skip

SKELETONS = {skeleton.name: skeleton for skeleton in (POSETRACK, COCO)}


def get_skeleton(name: str) -> Skeleton:
    """Return a skeleton by name.

    Raises:
        ConfigError: the name is unknown.
    """
    try:
        return SKELETONS[name]
    except KeyError:
        raise ConfigError(f"unknown skeleton '{name}': expected one of {', '.join(SKELETONS)}") from None
