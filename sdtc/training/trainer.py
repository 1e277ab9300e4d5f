"""The trainer: runs a training configuration in one process or several.

A resumed run gives the same weights as an uninterrupted one (on a CPU to the bit): the order of the data, its
augmentation and the masks depend on (seed, epoch, step) only. So the state to resume from is the weights, the state of
the optimisers (with fp16, the scale of the gradients too) and two counters, and a batch has the same samples in one
process or shared by several.
"""

from __future__ import annotations

import math
import reprlib
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from sdtc.core.annotation_file import left_out_phrase
from sdtc.core.command_line import complain
from sdtc.core.errors import CheckpointError, ConfigError, SdtcError, require
from sdtc.core.files import make_directory
from sdtc.core.image_file import ImageCache
from sdtc.core.numbers import whole_number
from sdtc.core.skeleton import POSETRACK
from sdtc.evaluation.ap import estimate_note
from sdtc.model.builder import build
from sdtc.model.checkpoint import (
    checkpoint_data,
    load_backbone,
    load_weights,
    read_checkpoint_data,
    save_checkpoint,
    write_checkpoint_data,
)
from sdtc.model.reconstruction import MaskedSDTC, sample_masks
from sdtc.training.annotations import AnnotationSet, measure_heads, read_annotations
from sdtc.training.dataset import Sample, WindowDataset, window_images
from sdtc.training.label_checks import drop_mixed_up
from sdtc.training.log import RunLog
from sdtc.training.losses import Losses, masked_losses
from sdtc.training.optimizer import build_optimizers, set_rate, take_step
from sdtc.training.train_config import DataConfig, TrainConfig
from sdtc.training.validation import Share, validate

LAST, BEST = "last.pth", "best.pth"


class Trainer:
    """One training run.

    Args:
        config: of the run.
        output: folder for checkpoints and logs.
        resume: continue from the last state in the folder; without one, start from the beginning.
        quiet: show neither a progress bar nor the results of each epoch.

    Raises:
        SdtcError: the data, the configuration or the state to resume from is not usable.
    """

    def __init__(self, config: TrainConfig, output: Path, resume: bool = False, quiet: bool = False) -> None:
        accelerate = require("accelerate", "train", "sdtc-train")
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config = config
        self.output = make_directory(output)
        try:
            self.accelerator = accelerate.Accelerator(
                cpu=config.device == "cpu" or not torch.cuda.is_available(), mixed_precision=config.precision
            )
        except ValueError as error:
            if "already been initialized" not in str(error):
                raise
            raise ConfigError(
                f"precision is '{config.precision}', but this process has trained with another before, which "
                "accelerate keeps: train in a process of its own"
            ) from None
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        if config.batch_size % self.world:
            raise ConfigError(f"batch_size {config.batch_size} cannot be divided among {self.world} processes")
        self.quiet = quiet or self.rank > 0
        if config.model.skeleton != POSETRACK.name:
            raise ConfigError(
                f"model.skeleton is '{config.model.skeleton}': data sets are read with the joints of "
                f"'{POSETRACK.name}', those of COCO too; train a network with these"
            )
        self.training, self.validation = ([_read(part) for part in parts] for parts in (config.train, config.val))
        self.data = WindowDataset(
            self.training,
            config.model,
            config.augmentation,
            config.seed,
            config.sigma,
            own_boxes=config.own_boxes and config.model.motion != "optical_flow",
            weights=[part.weight for part in config.train],
        )
        if self.data.epoch_length < config.batch_size:
            raise ConfigError(
                f"batch_size {config.batch_size} is larger than an epoch of {self.data.epoch_length} people: "
                "lower `batch_size`"
            )

        torch.manual_seed(config.seed)
        self.network = build(config.model)
        if config.backbone:
            load_backbone(self.network, config.backbone)
        if config.load_from:
            load_weights(self.network, config.load_from)
        self.masked = MaskedSDTC(self.network, config.masked)
        # Moves the parameters: before there are optimisers, which then keep their state where the parameters are.
        self.module = self.accelerator.prepare(self.masked)
        self.scaler: torch.amp.GradScaler = self.accelerator.scaler or torch.amp.GradScaler(enabled=False)
        self.optimizers = build_optimizers(
            self.masked.parameters(),
            config.optimizer,
            config.learning_rate,
            config.weight_decay,
            torch.bfloat16 if config.precision == "bf16" else torch.float32,
        )
        self.epoch = self.step_in_epoch = 0
        self.best = -math.inf
        if resume and (output / LAST).exists():
            self._load_state(output / LAST)
        self.log = RunLog(output, self.step, enabled=self.rank == 0)

    def _tell_about_data(self) -> None:
        if self.quiet:
            return
        for name, parts, sets in (
            ("training", self.config.train, self.training),
            ("validation", self.config.val, self.validation),
        ):
            for part, read in zip(parts, sets, strict=True):
                where = f"{name} ({part.root})" if len(parts) > 1 else name
                if read.skipped:
                    _tell(f"note     {where}: annotations left out: {left_out_phrase(read.skipped)}")
                if read.mixed_up:
                    _tell(f"note     {where}: {read.mixed_up:,} people without labels of left and right: mixed up")
                if name == "validation" and (estimated := measure_heads(read.people)[1]).any():
                    _tell(f"note     {where}: {estimate_note(int(estimated.sum()), len(estimated))}")

    def _cache_images(self) -> ImageCache:
        people = self.data.people + [person for each in self.validation for person in each.people]
        paths = window_images(people, self.config.model.delta)
        return ImageCache(tqdm(paths, desc="reading images", unit="image", disable=True if self.quiet else None))

    @property
    def steps_per_epoch(self) -> int:
        """Number of whole batches in an epoch; the samples that remain are skipped, different ones in each epoch."""
        return self.data.epoch_length // self.config.batch_size

    @property
    def step(self) -> int:
        """Steps taken so far."""
        return self.epoch * self.steps_per_epoch + self.step_in_epoch

    def run(self) -> None:
        """Train until all epochs are done.

        Raises:
            SdtcError: the loss is not finite, or a file cannot be read or written.
        """
        total = self.config.epochs * self.steps_per_epoch
        self._tell_about_data()
        if self.config.cache_images and self.epoch < self.config.epochs:  # not for a run that is complete
            self.data.read = self._cache_images()
        saved = time.monotonic()
        with tqdm(total=total, initial=self.step, unit="step", disable=True if self.quiet else None) as bar:
            while self.epoch < self.config.epochs:
                for losses in self._epoch():
                    bar.set_postfix(epoch=self.epoch + 1, loss=f"{float(losses.total.detach()):.5f}", refresh=False)
                    bar.update()
                    if (
                        self.step_in_epoch < self.steps_per_epoch
                        and time.monotonic() - saved > self.config.save_seconds
                    ):
                        self._save_state()
                        saved = time.monotonic()
                self.epoch, self.step_in_epoch = self.epoch + 1, 0
                self._end_epoch(bar)
                saved = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Leave the process group: a process that exits while others still communicate with it aborts."""
        if kind is None:
            self.accelerator.wait_for_everyone()
        # The distributed wrapper refers to the group; a group that exists until the interpreter exits makes it abort.
        self.module = self.masked
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def _epoch(self) -> Iterator[Losses]:
        """Run the remaining steps of an epoch."""
        self.module.train()
        loader = iter(self._loader())
        while True:
            start = time.perf_counter()
            batch: Sample | None = next(loader, None)
            waited = time.perf_counter() - start
            if batch is None:
                return
            losses = self._take_step(batch)
            self.step_in_epoch += 1
            self.log.add(losses, waited, time.perf_counter() - start, len(batch["clip"]) * self.world)
            yield losses

    def _take_step(self, batch: Sample) -> Losses:
        device = self.accelerator.device
        rate = self._rate(self.epoch, self.step)
        set_rate(self.optimizers, rate)
        losses = self.compute_losses({key: value.to(device) for key, value in batch.items()})  # type: ignore[attr-defined]
        if not torch.isfinite(losses.total):
            raise SdtcError(
                f"the loss is {float(losses.total.detach())} at step {self.step} (epoch {self.epoch + 1}): lower "
                f"learning_rate, or use `precision='no'`; the last good state is in '{self.output / LAST}'"
            )
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(losses.total).backward()
        take_step(self.optimizers, self.scaler, self.config.clip_norm)
        return losses

    def _rate(self, epoch: int, step: int) -> float:
        return self.config.rate_at(epoch, step, self.config.epochs * self.steps_per_epoch)

    def compute_losses(self, batch: dict[str, Tensor]) -> Losses:
        """Return the losses of the network on this process's share of a batch, with this step's masks."""
        tubes, frames = self._masks() if self.config.masked else (None, None)
        with self.accelerator.autocast():
            output = self.module(batch["clip"], tubes, frames, batch["places"] if self.data.own_boxes else None)
        return masked_losses(
            output, batch["heatmaps"], batch["weights"], tubes, frames, self.config.model.reconstruction
        )

    def _masks(self) -> tuple[Tensor | None, Tensor | None]:
        """Sample the masks of the whole batch, and return this process's share of them."""
        generator = torch.Generator().manual_seed(_mix(self.config.seed, self.step))
        masks = sample_masks(self.config.model, self.config.batch_size, generator)
        tubes, frames = (None if mask is None else mask[self._share()].to(self.accelerator.device) for mask in masks)
        return tubes, frames

    def _share(self) -> slice:
        size = self.config.batch_size // self.world
        return slice(self.rank * size, (self.rank + 1) * size)

    def _loader(self) -> DataLoader[Sample]:
        self.data.set_epoch(self.epoch)
        order = self.data.order(self.epoch)
        batches = order[: self.steps_per_epoch * self.config.batch_size].reshape(-1, self.config.batch_size)
        mine = batches[self.step_in_epoch :, self._share()]
        return DataLoader(
            self.data,
            batch_sampler=mine.tolist(),
            num_workers=self.config.workers,
            pin_memory=self.accelerator.device.type == "cuda",
        )

    def _end_epoch(self, bar: tqdm) -> None:
        score = None
        if self.validation and (self.epoch % self.config.validate_every == 0 or self.epoch == self.config.epochs):
            bar.set_description("validating")
            if self.world > 1:  # batch norms count in every process for itself; those of the first are saved
                for buffer in self.network.buffers():
                    torch.distributed.broadcast(buffer, 0)
            share = Share(self.rank, self.world)
            scores = [
                validate(self.network, each, self.accelerator.device, self.data.read, share, self.data.own_boxes)
                for each in self.validation
            ]
            score = sum(scores) / len(scores)
            bar.set_description(None)
        is_best = score is not None and score >= self.best  # of equals the last: it has seen more
        self.best = score if score is not None and is_best else self.best
        if self.rank == 0:
            if is_best:
                dtype = torch.float16 if self.config.half_weights else None
                save_checkpoint(self.output / BEST, self.network, trained=True, dtype=dtype)
            row = self.log.end_epoch(self.epoch, self.step, self._rate(self.epoch - 1, self.step - 1), score)
            if row and not self.quiet:
                _tell(_describe(row, self.config.epochs))
        self._save_state()

    def _save_state(self) -> None:
        if self.rank:
            return
        state = checkpoint_data(self.network, trained=True) | {
            "training": {
                "epoch": self.epoch,
                "step_in_epoch": self.step_in_epoch,
                "best": self.best,
                "seed": self.config.seed,
                "samples": self.data.epoch_length,
                "batch_size": self.config.batch_size,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "scaler": self.scaler.state_dict(),
                "reconstruction": None
                if self.masked.reconstruction is None
                else self.masked.reconstruction.state_dict(),
            }
        }
        write_checkpoint_data(self.output / LAST, state)

    def _load_state(self, path: Path) -> None:
        data: dict[str, Any] = read_checkpoint_data(path, self.config.model)
        state = data.get("training")
        if not isinstance(state, dict):
            raise CheckpointError(f"'{path}' has no training state, only weights: training cannot resume from it")
        now = {"seed": self.config.seed, "samples": self.data.epoch_length, "batch_size": self.config.batch_size}
        for name, value in now.items():
            if state.get(name) != value:
                raise CheckpointError(
                    f"'{path}' was made with {name} {state.get(name)}, now it is {value}: resume with the old value, "
                    "or start a new run in another `output`"
                )
        try:
            self.network.load_state_dict(data["state_dict"])
            if self.masked.reconstruction is not None:
                self.masked.reconstruction.load_state_dict(state["reconstruction"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            if self.scaler.is_enabled() and (scale := state.get("scaler")):  # none in states of runs without fp16
                self.scaler.load_state_dict(scale)
            for name in ("epoch", "step_in_epoch"):
                number = whole_number(state[name])
                if number is None or number < 0:
                    raise ValueError(f"{name} is {reprlib.repr(state[name])}")
                setattr(self, name, number)
            self.best = float(state["best"])
            if math.isnan(self.best):
                raise ValueError("best is nan")
        # PyTorch takes whatever a state holds, so that a damaged one can lead to any error.
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, ValueError, TypeError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise CheckpointError(f"'{path}' does not fit this configuration: {reason}") from None


def _read(part: DataConfig) -> AnnotationSet:
    """Read a data set, and drop labels where the configuration says so; how many people lose some is counted."""
    annotations = read_annotations(part.root, part.split, part.annotations)
    if part.drop_mixed_up:
        people = [replace(person, keypoints=drop_mixed_up(person.keypoints)) for person in annotations.people]
        changed = sum(new.keypoints is not old.keypoints for new, old in zip(people, annotations.people, strict=True))
        people = [person for person in people if person.keypoints[:, 2].any()]
        annotations = AnnotationSet(people, annotations.skipped, changed)
    return annotations


def _tell(text: str) -> None:
    """Print a line above the progress bar."""
    with tqdm.external_write_mode(file=sys.stderr):
        complain(text)


def _describe(row: dict[str, str], epochs: int) -> str:
    ap = f", validation AP {row['val_ap']}" if row["val_ap"] else ""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['total']}{ap}, {row['windows_per_second']} windows/s, "
        f"{float(row['data_wait']):.1%} of the time waiting for data, {row['seconds']} s"
    )


def _mix(seed: int, step: int) -> int:
    """Return the seed of a step; those of neighbouring steps and seeds are unrelated."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
