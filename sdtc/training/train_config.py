"""The configuration of a training run: a YAML file, every value of which can also be set on the command line."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

from sdtc.core.errors import ConfigError, require
from sdtc.core.settings import build_settings
from sdtc.model.config import ModelConfig, get_preset
from sdtc.training.augmentation import AugmentationConfig
from sdtc.training.targets import SIGMA

OPTIMIZERS = ("adamw", "muon")
DECAYS = ("steps", "linear")
MAX_SEED = 2**63 - 1
MAX_PROCESSES = 1024
MAX_WEIGHT = 1000
MAX_BYTES = 1 << 20  # of a configuration
# Scalars that are not text.
_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?(?:0|[1-9][0-9_]*)",
    "float": r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "merge": r"<<",
}


@dataclass(frozen=True)
class DataConfig:
    """One split of one data set, see `sdtc.training.annotations`.

    Attributes:
        root: the data set's folder.
        split: ``"train"`` or ``"val"``.
        annotations: file or folder of annotations, if they are not below the root.
        weight: of training data: how often an epoch has each person of this set. 0.5: half of them, others in every
            epoch.
        drop_mixed_up: whether to take the labels of left and right from people whose torso shows that the two were
            mixed up (`sdtc.training.label_checks`), as in data of crowd workers.
    """

    root: Path
    split: str
    annotations: Path | None = None
    weight: float = 1.0
    drop_mixed_up: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.weight <= MAX_WEIGHT:
            raise ConfigError(
                f"the weight of data set '{self.root}' is {self.weight:g}: expected more than 0, at most "
                f"{MAX_WEIGHT:,}; to leave a data set out, remove it from the list"
            )


@dataclass(frozen=True)
class TrainConfig:
    """The configuration of one run.

    Attributes:
        train: training data, one set or several; in YAML a set alone needs no list.
        val: validation data, to choose the best checkpoint by: the mean AP of the sets. Without any there is no
            validation, and no best checkpoint.
        model: the network; in YAML ``{preset: base}``, with any of its fields overridden.
        backbone: ViTPose file or sdtc checkpoint to initialise the backbone from.
        load_from: sdtc checkpoint to initialise all weights from; weights of a smaller delta are inflated.
        own_boxes: crop every frame of a window by the person's box in that frame and resample its tokens to the
            keyframe's crop, as the runtime does with a stream; False crops all frames by the keyframe's box, as in the
            paper. Optical flow always has the keyframe's.
        augmentation: strengths and probabilities.
        sigma: of the heatmap targets, heatmap pixels.
        masked: masked training with reconstruction (Eq. 15); False trains with Eq. 14 only.
        optimizer: ``"adamw"`` (paper) or ``"muon"``, see `sdtc.training.optimizer`.
        learning_rate, weight_decay: of the optimiser (paper: a learning rate of 5e-4).
        decay: of the learning rate: ``"steps"`` multiplies it by gamma at each milestone, ``"linear"`` decreases it to
            0 over the run and ignores gamma and milestones.
        epochs, milestones, gamma: milestones are in epochs (paper: 50, (20, 40), 0.1).
        warmup_steps: number of steps in which the learning rate rises linearly from 0.
        batch_size: windows per step, over all training processes.
        clip_norm: gradients are clipped to this norm.
        precision: of autocast, ``"no"`` (fp32), ``"bf16"`` or ``"fp16"``.
        cache_images: decode every image once and keep all of them in memory, 3 bytes per pixel in each training
            process; its workers share them where processes are forked (Linux).
        workers: data loading workers per training process.
        threads: CPU threads per training process; 0: as many as torch chooses.
        device: ``"auto"`` or ``"cpu"``.
        seed: of initial weights, order of the data, augmentation and masks.
        save_seconds: longest time between two saves of the state to resume from.
        validate_every: epochs between two validations.
        half_weights: store the best checkpoint in fp16, half the size; the state to resume from stays in fp32.
    """

    train: tuple[DataConfig, ...]
    val: tuple[DataConfig, ...] = ()
    model: ModelConfig = field(default_factory=ModelConfig)
    backbone: Path | None = None
    load_from: Path | None = None
    own_boxes: bool = True
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    sigma: float = SIGMA
    masked: bool = True
    optimizer: str = "adamw"
    decay: str = "steps"
    epochs: int = 50
    milestones: tuple[int, ...] = (20, 40)
    gamma: float = 0.1
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup_steps: int = 0
    batch_size: int = 32
    clip_norm: float = 1.0
    precision: str = "no"
    cache_images: bool = False
    workers: int = 4
    threads: int = 0
    device: str = "auto"
    seed: int = 0
    save_seconds: float = 600.0
    validate_every: int = 1
    half_weights: bool = False

    def __post_init__(self) -> None:
        if not self.train:
            raise ConfigError("train is an empty list: expected at least one data set")
        for name in ("epochs", "batch_size", "validate_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected at least 1")
        for name in ("learning_rate", "sigma"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected a finite number above 0")
        for name in ("weight_decay", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected a finite number from 0")
        if not self.clip_norm > 0:
            raise ConfigError(f"clip_norm is {self.clip_norm}: expected more than 0")
        if not self.save_seconds >= 0:
            raise ConfigError(f"save_seconds is {self.save_seconds}: expected at least 0")
        for name, most in (("seed", MAX_SEED), ("workers", MAX_PROCESSES), ("threads", MAX_PROCESSES)):
            if not 0 <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}: expected 0 to {most}")
        for name, allowed in (("optimizer", OPTIMIZERS), ("decay", DECAYS)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} is '{getattr(self, name)}': expected {' or '.join(allowed)}")
        if self.backbone and self.load_from:
            raise ConfigError(
                "backbone and load_from are both given: load_from includes a backbone, so leave out backbone"
            )
        if self.precision not in ("no", "bf16", "fp16"):
            raise ConfigError(f"precision is '{self.precision}': expected no, bf16 or fp16")
        if self.device not in ("auto", "cpu"):
            raise ConfigError(f"device is '{self.device}': expected auto or cpu")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps is {self.warmup_steps}: expected at least 0")

    def rate_at(self, epoch: int, step: int, steps: int) -> float:
        """Return the learning rate of a step. It depends on nothing else, so that resuming needs no scheduler state.

        Args:
            epoch, step: counted from 0, over the whole run.
            steps: number of steps of the whole run.
        """
        if self.decay == "linear":
            rate = self.learning_rate * (1 - step / steps)
        else:
            rate = self.learning_rate * self.gamma ** sum(epoch >= milestone for milestone in self.milestones)
        return rate * min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else rate


def load_config(source: str, changes: list[str] | None = None) -> TrainConfig:
    """Read a configuration.

    Args:
        source: a YAML file, or the name of one that comes with the package.
        changes: values to override, ``key=value`` with dots for nested keys, e.g. ``model.delta=1``; values are YAML.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or it has an unknown key, a key twice, or an unusable
            value.
    """
    require("yaml", "train", "sdtc-train")
    try:
        data = _parse(_read(source), f"configuration '{source}'")
    except ValueError as error:
        raise ConfigError(f"configuration '{source}' is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"configuration '{source}' holds no keys: expected train, model, epochs, …")
    for change in changes or []:
        key, separator, value = change.partition("=")
        if not separator or not key:
            raise ConfigError(f"`changes` {change}: expected key=value, e.g. model.delta=1")
        try:
            _assign(data, key, _parse(value, f"`changes` {change}"))
        except ValueError:
            raise ConfigError(f"`changes` {change}: '{value}' is not a YAML value") from None
    data = dict(data)
    data["model"] = _with_preset(data.get("model", {}))
    for key in ("train", "val"):
        if data.get(key) is None:
            data.pop(key, None)
        elif not isinstance(data[key], list):
            data[key] = [data[key]]
    if isinstance(data.get("augmentation"), dict) and "shift" in data["augmentation"]:
        raise ConfigError("augmentation.shift is now augmentation.box_noise.centre, the σ of normal noise: half of it")
    return build_settings(TrainConfig, data, source)


def _parse(text: str, where: str) -> Any:
    """Return what a YAML text means, by YAML 1.2: 3e-3 is a number, and `no` is not false. PyYAML goes by YAML 1.1.

    Raises:
        ConfigError: a mapping has a key twice.
        ValueError: it is not YAML; the message says where.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}

        def compose_mapping_node(self, anchor: Any) -> Any:
            node = super().compose_mapping_node(anchor)
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:  # before `<<` adds the keys of others, which these may replace
                if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                    name, line = (key.tag, key.value), key.start_mark.line + 1
                    if name in lines:  # PyYAML would take the last one without a word
                        both = f", in lines {lines[name]} and {line}" if line > lines[name] else ""
                        raise ConfigError(f"{where} has the key '{key.value}' twice{both}: keep one of them")
                    lines[name] = line
            return node

    for tag, pattern in _SCALARS.items():
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"(?:{pattern})\\Z"), None)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except TypeError:  # a merge of what cannot be merged, for example
        raise ValueError("a key or a value is of a kind that it cannot be") from None


def config_names() -> list[str]:
    """Return the names of the configurations that come with the package."""
    folder = resources.files("sdtc.training") / "configs"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def _read(source: str) -> str:
    path = Path(source)
    if path.suffix not in (".yaml", ".yml") and source in config_names():
        return (resources.files("sdtc.training") / "configs" / f"{source}.yaml").read_text(encoding="utf-8")
    try:
        with path.open("rb") as file:  # a device may have no end
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(f"configuration '{source}' has more than {MAX_BYTES:,} bytes: expected a YAML file")
        return data.decode()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"configuration '{source}' cannot be read: expected a YAML file, or one of {', '.join(config_names())}"
        ) from None


def _assign(data: dict[str, Any], key: str, value: Any) -> None:
    """Set the value of a key; dots lead into mappings, and numbers from 0 to the parts of a list."""
    *parents, last = key.split(".")
    place: Any = data
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else _part(place, key, parent)
        if not isinstance(place, dict | list):
            raise ConfigError(f"`changes` {key}: '{parent}' is a value and has no keys")
    if isinstance(place, list):
        _part(place, key, last)
        place[int(last)] = value
    else:
        place[last] = value


def _part(values: list[Any], key: str, number: str) -> Any:
    if not (number.isdecimal() and int(number) < len(values)):
        raise ConfigError(
            f"`changes` {key}: '{number}' should be the number of one of {len(values)} parts of a list, from 0: "
            "train.0.root, for example"
        )
    return values[int(number)]


def _with_preset(model: Any) -> Any:
    """Expand the key ``preset`` of a model into all fields; those given beside it override the preset's."""
    if not isinstance(model, dict) or "preset" not in model:
        return model
    changes = dict(model)
    base = get_preset(str(changes.pop("preset"))).to_dict()
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            base[key] |= value
        else:
            base[key] = value
    return base
