"""Validation during training: AP of the poses in ground-truth boxes, to choose the best checkpoint.

For figures to report, use `sdtc-eval`: it computes the same AP, and handles ignore regions, detector boxes and bundles.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from sdtc.core.crops import crop_to_image, expand_boxes
from sdtc.core.image_file import read_image
from sdtc.evaluation.ap import GroundTruth, Predictions, Scores, evaluate, head_size
from sdtc.model.config import ModelConfig
from sdtc.model.decoding import decode_heatmaps
from sdtc.model.network import PoseNetwork
from sdtc.training.annotations import AnnotatedPerson, AnnotationSet
from sdtc.training.augmentation import View
from sdtc.training.dataset import ReadImage, read_window

BATCH = 32  # windows


@dataclass(frozen=True)
class _Windows(Dataset[Tensor]):
    people: list[AnnotatedPerson]
    config: ModelConfig
    read: ReadImage

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Tensor:
        view = View(expand_boxes(self.people[index].box, self.config.input_size))
        return torch.from_numpy(read_window(self.people[index], view, self.config, self.read))


def validate(
    network: PoseNetwork, annotations: AnnotationSet, device: torch.device, read: ReadImage = read_image
) -> float:
    """Return the mean AP over the joints, percent, of a network's poses in ground-truth boxes."""
    return score(annotations, predict(network, annotations, device, read)).total


def predict(
    network: PoseNetwork, annotations: AnnotationSet, device: torch.device, read: ReadImage = read_image
) -> np.ndarray:
    """Estimate the pose of every annotated person in the ground-truth box.

    Returns:
        float32 ``[P, J, 3]``: x, y in image pixels and score 0-1, in the order of `annotations.people`.
    """
    config = network.config
    loader = DataLoader(_Windows(annotations.people, config, read), BATCH)
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            decoded = [decode_heatmaps(network(clip.to(device)), config.input_size).cpu() for clip in loader]
    finally:
        network.train(was_training)
    return crops_to_images(torch.cat(decoded).numpy(), annotations, config.input_size)


def crops_to_images(keypoints: np.ndarray, annotations: AnnotationSet, size: tuple[int, int]) -> np.ndarray:
    """Map the keypoints of all annotated people from the crops of their boxes to image pixels, in place.

    Args:
        keypoints: ``[P, J, 3]``, crop pixels, in the order of `annotations.people`.
        annotations: with the boxes.
        size: (H, W) of the crops.

    Returns:
        `keypoints`.
    """
    boxes = expand_boxes(np.stack([person.box for person in annotations.people]), size)  # [P, 4]
    keypoints[..., :2] = crop_to_image(keypoints[..., :2], boxes[:, None], size)
    return keypoints


def score(annotations: AnnotationSet, keypoints: np.ndarray) -> Scores:
    """Compute the AP of poses ``[P, 15, 3]`` (x, y in image pixels, score) in the order of `annotations.people`."""
    people = annotations.people
    frame_of = {image: index for index, image in enumerate(dict.fromkeys(person.image for person in people))}
    frames = np.array([frame_of[person.image] for person in people], np.int64)
    truth = np.stack([person.keypoints for person in people]).astype(np.float64)  # [P, 15, 3]
    heads = head_size(np.stack([person.head_box for person in people]))
    return evaluate(
        GroundTruth(len(frame_of), frames, truth[..., :2], truth[..., 2] > 0, heads),
        Predictions(frames, keypoints[..., :2].astype(np.float64), np.ones(truth.shape[:2], bool), keypoints[..., 2]),
    ).scores
