"""Validation during training: AP of the poses in ground-truth boxes, to choose the best checkpoint.

For figures to report, use `sdtc-eval`: it computes the same AP, and handles ignore regions, detector boxes and bundles.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from sdtc.core.crops import crop_to_image, expand_boxes
from sdtc.core.image_file import read_image
from sdtc.core.skeleton import get_skeleton
from sdtc.evaluation.ap import GroundTruth, Predictions, Scores, evaluate
from sdtc.model.decoding import decode_heatmaps
from sdtc.model.network import PoseNetwork
from sdtc.training.annotations import AnnotationSet, measure_heads
from sdtc.training.dataset import ReadImage, WindowDataset

BATCH = 32  # windows


@dataclass(frozen=True)
class Share:
    """Which part of a validation one of several processes does.

    Attributes:
        rank: of this process, from 0.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    def gather(self, part: np.ndarray) -> list[np.ndarray]:
        """Return the parts of all processes, by rank; every process gets them."""
        if self.world == 1:
            return [part]
        parts: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(parts, part)
        return parts


def validate(
    network: PoseNetwork,
    annotations: AnnotationSet,
    device: torch.device,
    read: ReadImage = read_image,
    share: Share | None = None,
    own_boxes: bool = True,
) -> float:
    """Return the mean AP over the joints, percent, of a network's poses in ground-truth boxes."""
    return score(annotations, predict(network, annotations, device, read, share, own_boxes)).total


def predict(
    network: PoseNetwork,
    annotations: AnnotationSet,
    device: torch.device,
    read: ReadImage = read_image,
    share: Share | None = None,
    own_boxes: bool = True,
) -> np.ndarray:
    """Estimate the pose of every annotated person in the ground-truth box.

    Args:
        network: on the device.
        annotations: the people.
        device: to run on.
        read: function that reads an image.
        share: of this process, if several predict together: each takes every n-th batch, so that a batch has the same
            people however many processes there are, and all of them return the same.
        own_boxes: as in `WindowDataset`.

    Returns:
        float32 ``[P, J, 3]``: x, y in image pixels and score 0-1, in the order of `annotations.people`.
    """
    config = network.config
    share = share or Share()
    batches = torch.arange(len(annotations.people)).split(BATCH)
    mine = [batch.tolist() for batch in batches[share.rank :: share.world]]
    loader = DataLoader(WindowDataset(annotations, config, read=read, own_boxes=own_boxes), batch_sampler=mine)
    was_training = network.training
    network.eval()
    decoded = []
    try:
        with torch.inference_mode():
            for batch in loader:
                heatmaps = network(batch["clip"].to(device), batch["places"].to(device) if own_boxes else None)
                decoded.append(decode_heatmaps(heatmaps, config.input_size).cpu().numpy())
    finally:
        network.train(was_training)
    keypoints = np.empty((len(annotations.people), len(get_skeleton(config.skeleton).keypoints), 3), np.float32)
    nothing = keypoints[:0]
    for rank, part in enumerate(share.gather(np.concatenate([nothing, *decoded]))):
        keypoints[torch.cat([batches[0][:0], *batches[rank :: share.world]]).numpy()] = part
    return crops_to_images(keypoints, annotations, config.input_size)


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
    return evaluate(
        GroundTruth(len(frame_of), frames, truth[..., :2], truth[..., 2] > 0, measure_heads(people)[0]),
        Predictions(frames, keypoints[..., :2].astype(np.float64), np.ones(truth.shape[:2], bool), keypoints[..., 2]),
    ).scores
