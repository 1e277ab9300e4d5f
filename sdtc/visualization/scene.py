"""Computes what each figure shows from a network and a data set, every value once, and draws the figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch

from sdtc.core.skeleton import get_skeleton
from sdtc.model.config import ReconstructionConfig
from sdtc.model.network import PoseNetwork
from sdtc.model.reconstruction import sample_masks
from sdtc.training.annotations import AnnotationSet
from sdtc.training.dataset import Sample, WindowDataset, read_keyframe
from sdtc.training.validation import predict
from sdtc.visualization import figures
from sdtc.visualization.inside import Trace, trace
from sdtc.visualization.panels import Page
from sdtc.visualization.selection import Selection, joint_errors, spread, worst


class FigureScene:
    """The figures of one network for one selected person in a keyframe.

    Args:
        network: in evaluation mode, on the device to run on.
        annotations: of a split.
        selection: clip, keyframe and person.
        name: of the network, for captions.
    """

    def __init__(self, network: PoseNetwork, annotations: AnnotationSet, selection: Selection, name: str) -> None:
        self.network, self.annotations, self.selection = network, annotations, selection
        self.skeleton = get_skeleton(network.config.skeleton)
        self._person = annotations.people[selection.person]
        self._clip_about = f"{selection.clip}; {name}."
        self._about = f"{selection.clip}, frame {self._person.number}, person {self._person.track_id}; {name}."
        self._poses: dict[int, np.ndarray] = {}

    @cached_property
    def sample(self) -> Sample:
        """The window of the selected person, all of it in the keyframe's crop, as the figures show it."""
        return WindowDataset(self.annotations, self.network.config, own_boxes=False)[self.selection.person]

    @cached_property
    def trace(self) -> Trace:
        """Heatmaps and features of the network on that window."""
        return trace(self.network, self.sample["clip"])

    @property
    def crop(self) -> np.ndarray:
        """The keyframe of that window, uint8 ``[H, W, 3]`` RGB."""
        return self.sample["clip"][self.network.config.delta].numpy()

    def poses(self, indices: Iterable[int]) -> np.ndarray:
        """Predict the poses of people in their annotated boxes, in batches, and each person only once.

        Args:
            indices: into `AnnotationSet.people`.

        Returns:
            ``[P, J, 3]``: x, y in image pixels and score 0-1.
        """
        indices = list(indices)
        new = [index for index in dict.fromkeys(indices) if index not in self._poses]
        if new:
            people = AnnotationSet([self.annotations.people[index] for index in new])
            device = next(self.network.parameters()).device
            found = predict(self.network, people, device, own_boxes=False)  # as `sample`
            self._poses.update(zip(new, found, strict=True))
        return np.stack([self._poses[index] for index in indices])

    def contexts(self, channels: Sequence[int] | None, count: int) -> Page:
        """Draw Figure 6, of these channels or of the `count` with the largest variance over the image."""
        over = self.network.config.context_softmax
        return figures.draw_contexts(self.crop, self.trace, over, channels, count, self._about)

    def posed_frames(self, count: int) -> list[figures.PosedFrame]:
        """Return `count` annotated frames, spread over the clip, with all predicted poses; of 1, the keyframe."""
        numbers = spread(list(self.selection.frames), count) if count > 1 else [self._person.number]
        chosen = {number: self.selection.frames[number] for number in numbers}
        self.poses(index for indices in chosen.values() for index in indices)  # batched over all frames
        return [
            figures.PosedFrame(
                self._image(indices[0]), number, [self.annotations.people[i] for i in indices], self.poses(indices)
            )
            for number, indices in chosen.items()
        ]

    def poses_over_frames(self, count: int) -> Page:
        """Draw Figure 7, of `count` frames."""
        return figures.draw_poses(self.posed_frames(count), self.skeleton, self._clip_about)

    def overlay(self, count: int) -> Page:
        """Draw predicted over annotated poses in `count` frames."""
        return figures.draw_overlay(self.posed_frames(count), self.skeleton, self._clip_about)

    def masks(self, ratio: float | None, seed: int) -> Page:
        """Draw Figure 8. Without a ratio, use the network's own mask ratio, or the default one if that is 0."""
        config = self.network.config
        if ratio is None:
            ratio = config.reconstruction.mask_ratio or ReconstructionConfig().mask_ratio
        config = dataclasses.replace(
            config, reconstruction=dataclasses.replace(config.reconstruction, mask_ratio=ratio)
        )
        tubes, frames = (
            None if mask is None else mask[0].numpy()
            for mask in sample_masks(config, 1, torch.Generator().manual_seed(seed))
        )
        about = f"Mask ratio {ratio:.0%}, rounded down; seed {seed}. {self._about}"
        return figures.draw_masks(self.sample["clip"].numpy(), tubes, frames, config.grid, about)

    def features(self) -> Page:
        """Draw Figure 11."""
        return figures.draw_features(self.crop, self.trace, self._about)

    def heatmaps(self, joints: Sequence[str]) -> Page:
        """Draw Figure 12, of all joints together and of these joints."""
        delta = self.network.config.delta
        truth = figures.LabelledCrop(
            self.crop, self._person, self.sample["heatmaps"][delta].numpy(), self.sample["weights"][delta].numpy()
        )
        return figures.draw_heatmaps(truth, self.trace, self.skeleton, joints, self._about)

    def failures(self, indices: Sequence[int], count: int, about: str) -> Page:
        """Draw Figure 13.

        Args:
            indices: of the people to choose from, into `AnnotationSet.people`.
            count: number of failures to show.
            about: what they were chosen from, for the caption.
        """
        people = [self.annotations.people[index] for index in indices]
        poses = self.poses(indices)
        errors = joint_errors(people, poses, self.skeleton)
        chosen = [
            figures.Failure(self._image(indices[i]), people[i], poses[i], errors[i])
            for i in worst(people, errors, count)
        ]
        return figures.draw_failures(chosen, self.skeleton, about)

    def _image(self, index: int) -> np.ndarray:
        return read_keyframe(self.annotations.people[index].image)
