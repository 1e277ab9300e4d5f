"""Windows of T crops around every annotated person, with targets, as a torch data set.

Every sample is a pure function of (seed, epoch, index), so that a resumed run and a run with another number of
workers see the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sdtc.core.crops import crop_frame
from sdtc.core.errors import InputError
from sdtc.core.image_file import read_image
from sdtc.model.config import ModelConfig
from sdtc.training.annotations import AnnotatedPerson, AnnotationSet
from sdtc.training.augmentation import AugmentationConfig, View, draw_view
from sdtc.training.targets import SIGMA, gaussian_heatmaps

ReadImage = Callable[[Path], np.ndarray | None]


class Sample(TypedDict):
    """One window; torch's default collate function adds the batch axis.

    clip: uint8 ``[T, H, W, 3]`` RGB. heatmaps: float32 ``[T, J, h, w]``, the keyframe's in the middle. weights: float32
    ``[T, J]``, 0 for joints without a label, and for people without one in a supporting frame.
    """

    clip: Tensor
    heatmaps: Tensor
    weights: Tensor


class WindowDataset(Dataset[Sample]):
    """The windows of all annotated people of a split, cropped and augmented.

    Args:
        annotations: from `read_annotations`.
        config: of the network, for T, crop size and heatmap size.
        augmentation: None: no augmentation.
        seed: of the augmentation.
        sigma: of the Gaussian targets, heatmap pixels.
        read: function that reads an image, see `sdtc.core.image_file`.
    """

    def __init__(
        self,
        annotations: AnnotationSet,
        config: ModelConfig,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        sigma: float = SIGMA,
        read: ReadImage = read_image,
    ) -> None:
        self.people = annotations.people
        self.config = config
        self.augmentation = augmentation or AugmentationConfig.none()
        self.seed = seed
        self.sigma = sigma
        self.read = read
        self.epoch = 0  # set before every epoch, see `set_epoch`
        self._tracks = annotations.tracks()

    def set_epoch(self, epoch: int) -> None:
        """Select the augmentations of an epoch. Workers copy the data set: call this before iterating over a loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> Sample:
        person = self.people[index]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        view = draw_view(person.box, person.keypoints, self.config.input_size, self.augmentation, rng)
        clip = read_window(person, view, self.config, self.read)
        keypoints = view.to_crop(self._window_keypoints(person), self.config.input_size)  # [T, J, 3]
        heatmaps, weights = gaussian_heatmaps(keypoints, self.config.input_size, self.config.heatmap_size, self.sigma)
        return {
            "clip": torch.from_numpy(clip),
            "heatmaps": torch.from_numpy(heatmaps),
            "weights": torch.from_numpy(weights),
        }

    def _window_keypoints(self, person: AnnotatedPerson) -> np.ndarray:
        """Return the person's keypoints in all T frames ``[T, 15, 3]``, image pixels; v = 0 where not labelled.

        Nobody's are taken from other frames if the person's own track id does not say who that is.
        """
        delta = self.config.delta
        window = np.zeros((self.config.num_frames, *person.keypoints.shape), np.float32)
        window[delta] = person.keypoints
        folder, track = person.image.parent, person.track_id
        if (folder, track, person.number) not in self._tracks:
            return window
        for t, offset in enumerate(range(-delta, delta + 1)):
            number = min(max(person.number + offset, person.first), person.last)
            found = self._tracks.get((folder, track, number))
            if found is not None:
                window[t] = found
        return window


def window_images(people: Iterable[AnnotatedPerson], delta: int) -> dict[Path, None]:
    """Return the images in the windows of these people, each once and in order of first use."""
    return dict.fromkeys(person.frame(offset) for person in people for offset in range(-delta, delta + 1))


def read_window(person: AnnotatedPerson, view: View, config: ModelConfig, read: ReadImage = read_image) -> np.ndarray:
    """Read and crop the T frames of a window, uint8 ``[T, H, W, 3]``; the keyframe replaces missing supporting frames.

    Raises:
        InputError: the keyframe cannot be read.
    """
    keyframe = read_keyframe(person.image, read)
    clip = np.empty((config.num_frames, *config.input_size, 3), np.uint8)
    seen: dict[Path, int] = {}  # clamped frames are cropped once
    for t, offset in enumerate(range(-config.delta, config.delta + 1)):
        path = person.frame(offset)
        if path in seen:
            clip[t] = clip[seen[path]]
            continue
        seen[path] = t
        image = keyframe if path == person.image else read(path)
        if image is None or image.shape != keyframe.shape:
            image = keyframe
        crop_frame(image, view.crop_box, config.input_size, out=clip[t], rotation=view.rotation)
    return np.ascontiguousarray(clip[:, :, ::-1]) if view.flip else clip


def read_keyframe(path: Path, read: ReadImage = read_image) -> np.ndarray:
    """Read the image of a keyframe, uint8 ``[H, W, 3]`` RGB.

    Raises:
        InputError: it cannot be read.
    """
    image = read(path)
    if image is None:
        raise InputError(f"image '{path}' is missing or broken: restore it, or remove its annotations")
    return image
