"""A network and a data set brought together: every figure's numbers, computed once, and the figure drawn from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from sdtc.core.errors import InputError
from sdtc.core.image_file import read_image
from sdtc.core.skeleton import get_skeleton
from sdtc.model.config import ReconstructionConfig
from sdtc.model.network import PoseNetwork
from sdtc.model.reconstruction import sample_masks
from sdtc.training.annotations import AnnotationSet
from sdtc.training.dataset import Sample, WindowDataset
from sdtc.training.validation import predict
from sdtc.visualization import figures
from sdtc.visualization.inside import Trace, trace
from sdtc.visualization.panels import Page
from sdtc.visualization.selection import Selection, joint_errors, spread, worst


class FigureScene:
    """Figures of one selection.

    Args:
        network: in evaluation mode, where it shall run.
        annotations: of a split.
        selection: of a person in a keyframe of it.
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
        """The window of the chosen person, as training sees it without augmentation."""
        return WindowDataset(self.annotations, self.network.config)[self.selection.person]

    @cached_property
    def trace(self) -> Trace:
        """The network over that window."""
        return trace(self.network, self.sample["clip"])

    @property
    def crop(self) -> np.ndarray:
        """The keyframe of that window, uint8 ``[H, W, 3]`` RGB."""
        return self.sample["clip"][self.network.config.delta].numpy()

    def poses(self, indices: Iterable[int]) -> np.ndarray:
        """Estimate people in their annotated boxes, in batches and nobody twice.

        Args:
            indices: into `AnnotationSet.people`.

        Returns:
            ``[P, J, 3]``: x, y in image pixels and score 0-1.
        """
        indices = list(indices)
        new = [index for index in dict.fromkeys(indices) if index not in self._poses]
        if new:
            people = AnnotationSet([self.annotations.people[index] for index in new])
            found = predict(self.network, people, next(self.network.parameters()).device)
            self._poses.update(zip(new, found, strict=True))
        return np.stack([self._poses[index] for index in indices])

    def contexts(self, channels: Sequence[int] | None, count: int) -> Page:
        """Figure 6: these channels, or the `count` of them that vary most over the picture."""
        return figures.draw_contexts(self.crop, self.trace, channels, count, self._about)

    def posed_frames(self, count: int) -> list[figures.PosedFrame]:
        """Return `count` annotated frames, spread over the clip, with everybody's estimated pose; 1: the keyframe."""
        numbers = spread(list(self.selection.frames), count) if count > 1 else [self._person.number]
        chosen = {number: self.selection.frames[number] for number in numbers}
        self.poses(index for indices in chosen.values() for index in indices)  # all frames in one go
        return [
            figures.PosedFrame(
                self._image(indices[0]), number, [self.annotations.people[i] for i in indices], self.poses(indices)
            )
            for number, indices in chosen.items()
        ]

    def poses_over_frames(self, count: int) -> Page:
        """Figure 7."""
        return figures.draw_poses(self.posed_frames(count), self.skeleton, self._clip_about)

    def overlay(self, count: int) -> Page:
        """Predictions against ground truth."""
        return figures.draw_overlay(self.posed_frames(count), self.skeleton, self._clip_about)

    def masks(self, ratio: float | None, seed: int) -> Page:
        """Figure 8; without a ratio at that of the network's last training, or the paper's where that had no masks."""
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
        """Figure 11."""
        return figures.draw_features(self.crop, self.trace, self._about)

    def heatmaps(self, joints: Sequence[str]) -> Page:
        """Figure 12: all joints together, and these."""
        delta = self.network.config.delta
        true, labelled = self.sample["heatmaps"][delta].numpy(), self.sample["weights"][delta].numpy()
        return figures.draw_heatmaps(
            self.crop, self._person, true, labelled, self.trace, self.skeleton, joints, self._about
        )

    def failures(self, indices: Sequence[int], count: int, about: str) -> Page:
        """Figure 13.

        Args:
            indices: into `AnnotationSet.people`: whom to choose from.
            count: of failures.
            about: whom they were chosen from, for the caption.
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
        path: Path = self.annotations.people[index].image
        image = read_image(path)
        if image is None:
            raise InputError(f"image '{path}' is missing or broken: restore it, or take its annotations out")
        return image
