"""Windows of T crops around every annotated person, with targets, as a torch data set.

Every sample is a pure function of (seed, epoch, index), so that a resumed run and a run with another number of
workers see the same data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from sdtc.training.augmentation import AugmentationConfig, View, draw_views, window_places
from sdtc.training.still_clips import StillClipConfig, draw_photometry, draw_still_clip
from sdtc.training.targets import SIGMA, gaussian_heatmaps

ReadImage = Callable[[Path], np.ndarray | None]


class Sample(TypedDict):
    """One window; torch's default collate function adds the batch axis.

    clip: uint8 ``[T, H, W, 3]`` RGB, every frame cut out by its own view. places: float32 ``[T, 4]``, where the
    keyframe's tokens lie in the crops (`sdtc.core.resampling.token_places`). heatmaps: float32 ``[T, J, h, w]`` of all
    frames in the keyframe's crop, the keyframe's own in the middle. weights: float32 ``[T, J]``, 0 for joints without a
    label, and for people without one in a supporting frame.
    """

    clip: Tensor
    places: Tensor
    heatmaps: Tensor
    weights: Tensor


class WindowDataset(Dataset[Sample]):
    """The windows of all annotated people of one or several data sets, cropped and augmented.

    Windows are what a stream has (`sdtc.runtime`): every frame is cropped by the person's box in that frame, and the
    network resamples its tokens to the keyframe's crop. A frame in which nobody says where the person is has the box of
    the nearest one.

    Args:
        annotations: from `read_annotations`, one set or several.
        config: of the network, for T, crop size and heatmap size.
        augmentation: None: no augmentation.
        seed: of the augmentation.
        sigma: of the Gaussian targets, heatmap pixels.
        read: function that reads an image, see `sdtc.core.image_file`.
        own_boxes: False crops all frames of a window by the keyframe's box, as in the paper.
        weights: of the data sets: how often an epoch has each sample (`order`). Default: once.
    """

    def __init__(
        self,
        annotations: AnnotationSet | Sequence[AnnotationSet],
        config: ModelConfig,
        augmentation: AugmentationConfig | None = None,
        seed: int = 0,
        sigma: float = SIGMA,
        read: ReadImage = read_image,
        own_boxes: bool = True,
        weights: Sequence[float] | None = None,
    ) -> None:
        sets = [annotations] if isinstance(annotations, AnnotationSet) else list(annotations)
        self.people = [person for each in sets for person in each.people]
        self.config = config
        self.augmentation = augmentation or AugmentationConfig.none()
        self.seed = seed
        self.sigma = sigma
        self.read = read
        self.own_boxes = own_boxes
        self.epoch = 0  # set before every epoch, see `set_epoch`
        self._sizes = [len(each.people) for each in sets]
        self._weights = list(weights or [1.0] * len(sets))
        self._tracks = {key: person for each in sets for key, person in each.tracks().items()}

    def set_epoch(self, epoch: int) -> None:
        """Select the augmentations of an epoch. Workers copy the data set: call this before iterating over a loader."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.people)

    @property
    def epoch_length(self) -> int:
        """Number of samples in an epoch: of every data set its number of people times its weight."""
        return sum(self._counts())

    def order(self, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in random order, int64 ``[epoch_length]``, for `__getitem__`.

        A data set of weight 2.5 is in it twice, each time augmented in another way, and half of it, which is another
        half in every epoch, a third time.
        """
        rng = np.random.default_rng([self.seed, epoch])
        samples, start = [], 0
        for size, count in zip(self._sizes, self._counts(), strict=True):
            whole, rest = divmod(count, size)
            numbers = start + np.arange(size)
            samples += [numbers + len(self) * repeat for repeat in range(whole)]
            if rest:
                samples.append(rng.permutation(numbers)[:rest] + len(self) * whole)
            start += size
        return rng.permutation(np.concatenate(samples))

    def _counts(self) -> list[int]:
        return [round(size * weight) for size, weight in zip(self._sizes, self._weights, strict=True)]

    def __getitem__(self, index: int) -> Sample:
        """Return a sample.

        Args:
            index: of a person; that of the person's n-th repetition is higher by n times the length.
        """
        person = self.people[index % len(self)]
        rng = np.random.default_rng([self.seed, self.epoch, index])
        still = self.augmentation.still_clip if person.is_still else None
        made = self._from_video(person, rng) if still is None else self._from_still(person, rng, still)
        clip, places, keypoints = made
        size, heatmap_size = self.config.input_size, self.config.heatmap_size
        heatmaps, weights = gaussian_heatmaps(keypoints, size, heatmap_size, self.sigma)
        return {
            "clip": torch.from_numpy(clip),
            "places": torch.from_numpy(places),
            "heatmaps": torch.from_numpy(heatmaps),
            "weights": torch.from_numpy(weights),
        }

    def _from_video(
        self, person: AnnotatedPerson, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return crops ``[T, H, W, 3]``, places ``[T, 4]`` and keypoints ``[T, 15, 3]`` in the keyframe's crop."""
        size = self.config.input_size
        frames = self._window(person)
        boxes = _boxes(frames if self.own_boxes else [person] * len(frames))
        views = draw_views(boxes, person.keypoints, size, self.augmentation, rng, shared=not self.own_boxes)
        clip, views = read_window(person, views, self.config, self.read)
        if self.augmentation.photometry is not None:
            photometry = draw_photometry(len(clip), self.augmentation.photometry, rng)
            for t in range(len(clip)):
                clip[t] = photometry.apply(clip[t], t)
        nobody = np.zeros_like(person.keypoints)
        window = np.stack([nobody if found is None else found.keypoints for found in frames])  # [T, 15, 3]
        return clip, window_places(views, self.config), views[self.config.delta].to_crop(window, size)

    def _from_still(
        self, person: AnnotatedPerson, rng: np.random.Generator, config: StillClipConfig
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the same of a clip that is made of a photograph."""
        size = self.config.input_size
        image = read_keyframe(person.image, self.read)
        still = draw_still_clip(person.box, self.config.num_frames, config, rng)
        boxes = still.boxes if self.own_boxes else np.tile(person.box, (len(still.boxes), 1))
        views = draw_views(boxes, person.keypoints, size, self.augmentation, rng, shared=not self.own_boxes)
        keyframe = views[self.config.delta]
        clip = still.render(image, np.stack([view.crop_box for view in views]), size, keyframe.rotation)
        if keyframe.flip:
            clip = np.ascontiguousarray(clip[:, :, ::-1])
        window = still.keypoints(person.keypoints, image.shape[:2])
        return clip, window_places(views, self.config), keyframe.to_crop(window, size)

    def _window(self, person: AnnotatedPerson) -> list[AnnotatedPerson | None]:
        """Return the person as annotated in each of the T frames, None where nobody says who that is."""
        delta = self.config.delta
        if person.is_still:
            return [person] * self.config.num_frames
        frames: list[AnnotatedPerson | None] = [None] * self.config.num_frames
        frames[delta] = person
        folder, track = person.image.parent, person.track_id
        if (folder, track, person.number) in self._tracks:
            for t, offset in enumerate(range(-delta, delta + 1)):
                number = min(max(person.number + offset, person.first), person.last)
                frames[t] = self._tracks.get((folder, track, number))
        return frames


def _boxes(frames: Sequence[AnnotatedPerson | None]) -> np.ndarray:
    """Return the person's box in each frame ``[T, 4]``; where the person is missing, of the nearest frame that has one.

    Of two as near, that nearer to the keyframe.
    """
    middle = len(frames) // 2
    known = {t: found.box for t, found in enumerate(frames) if found is not None}
    nearest = [min(known, key=lambda t: (abs(t - wanted), abs(t - middle))) for wanted in range(len(frames))]
    return np.stack([known[t] for t in nearest])


def window_images(people: Iterable[AnnotatedPerson], delta: int) -> dict[Path, None]:
    """Return the images in the windows of these people, each once and in order of first use."""
    return dict.fromkeys(person.frame(offset) for person in people for offset in range(-delta, delta + 1))


def read_window(
    person: AnnotatedPerson, views: Sequence[View], config: ModelConfig, read: ReadImage = read_image
) -> tuple[np.ndarray, list[View]]:
    """Read and crop the T frames of a window; the keyframe replaces missing supporting frames.

    Args:
        person: in the keyframe.
        views: of the T frames. Frames of the same number, at the ends of a sequence, have the first one's.
        config: of the network.
        read: function that reads an image.

    Returns:
        The crops uint8 ``[T, H, W, 3]``, and the views that they are seen by.

    Raises:
        InputError: the keyframe cannot be read.
    """
    delta = config.delta
    keyframe = read_keyframe(person.image, read)
    clip = np.empty((config.num_frames, *config.input_size, 3), np.uint8)
    used = list(views)
    crops: dict[Path, int] = {}  # where in the window a file is seen; at the ends of a sequence more than once
    for t in sorted(range(config.num_frames), key=lambda t: abs(t - delta)):  # the keyframe first
        path = person.frame(t - delta)
        if path not in crops:
            image = keyframe if t == delta else read(path)
            crops[path] = delta
            if image is not None and image.shape == keyframe.shape:
                crops[path] = t
                crop_frame(image, used[t].crop_box, config.input_size, out=clip[t], rotation=used[t].rotation)
        if crops[path] != t:
            clip[t], used[t] = clip[crops[path]], used[crops[path]]
    return np.ascontiguousarray(clip[:, :, ::-1]) if views[delta].flip else clip, used


def read_keyframe(path: Path, read: ReadImage = read_image) -> np.ndarray:
    """Read the image of a keyframe, uint8 ``[H, W, 3]`` RGB.

    Raises:
        InputError: it cannot be read.
    """
    image = read(path)
    if image is None:
        raise InputError(f"image '{path}' is missing or broken: restore it, or remove its annotations")
    return image
