"""Valid input to break, made with PyAV, OpenCV and this package: videos, images, a bundle, checkpoints, annotations.

Everything is made once and kept in a folder. Files of the same versions of the libraries are the same everywhere; a
seed of a video means another damage where FFmpeg writes other bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np

if TYPE_CHECKING:
    from sdtc.runtime.engine import PoseEngine

# By file: codec, pixel format, (H, W), number of frames, frames per second, options of the codec.
VIDEOS: dict[str, tuple[str, str, tuple[int, int], int, int, dict[str, str]]] = {
    "h264.mp4": ("libx264", "yuv420p", (96, 128), 30, 25, {"preset": "veryfast", "g": "12", "bf": "2"}),
    "one-gop.mp4": ("libx264", "yuv420p", (48, 64), 40, 30, {"preset": "ultrafast", "g": "100"}),
    "h264.mkv": ("libx264", "yuv420p", (120, 160), 20, 25, {"preset": "veryfast", "g": "8"}),
    "hevc.mp4": ("libx265", "yuv420p", (96, 128), 16, 25, {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "mjpeg.avi": ("mjpeg", "yuvj420p", (48, 64), 12, 15, {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", (48, 64), 24, 25, {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", (72, 96), 12, 25, {"deadline": "realtime", "cpu-used": "8"}),
    "h264.ts": ("libx264", "yuv420p", (72, 96), 25, 25, {"preset": "veryfast", "g": "10"}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", (48, 64), 20, 25, {}),
    "anim.gif": ("gif", "rgb8", (48, 64), 10, 10, {}),
    "rgb.mov": ("png", "rgb24", (48, 64), 10, 25, {}),
}
IMAGES: dict[str, list[int]] = {".jpg": [], ".png": [], ".webp": [], ".bmp": [], ".tiff": [], ".jpeg": []}


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """Return frame `number` of a moving pattern, uint8 ``[H, W, 3]``."""
    height, width = size
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 // width, y * 255 // height, (x + y + 9 * number) % 256], axis=-1).astype(np.uint8)
    left = 5 + 2 * number % (width // 2)
    image[height // 4 : height * 3 // 4, left : left + width // 5] = (220, 40, number * 6 % 256)
    return image


class Corpus:
    """The valid input.

    Args:
        folder: where it is kept; what is missing there is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._engine: PoseEngine | None = None

    def video(self, name: str) -> bytes:
        """Return one of `VIDEOS`."""
        return self._made(name, lambda path: _write_video(path, *VIDEOS[name])).read_bytes()

    @cached_property
    def images(self) -> dict[str, bytes]:
        """Image files by a name that says what is special about them; `plain` ones hold ``picture(3, (48, 64))``."""
        image = picture(3, (48, 64))[..., ::-1]
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        found = {f"plain{suffix}": image for suffix in IMAGES}
        found |= {
            "grey.png": grey,
            "alpha.png": np.dstack([image, grey]),
            "deep.png": image.astype(np.uint16) * 257,
            "deep.tiff": image.astype(np.uint16) * 257,
            "float.tiff": image.astype(np.float32) / 255,
            "one-pixel.png": image[:1, :1],
            "line.png": image[:1],
        }
        files = {name: cv2.imencode(Path(name).suffix, array)[1].tobytes() for name, array in found.items()}
        files |= _by_pillow(image[..., ::-1])
        return files

    @cached_property
    def checkpoint(self) -> Path:
        """The least network there is, as a ``.pth`` file; the same beside it as ``.safetensors``."""

        def make(path: Path) -> None:
            import torch

            from sdtc.model import BackboneConfig, ModelConfig, build, save_checkpoint

            torch.manual_seed(0)
            config = ModelConfig(
                name="micro", input_size=(64, 48), backbone=BackboneConfig(32, 1, 2, frozen=False), width=16, heads=1,
                motion_encoder="patch", fusion="add", delta=1,
            )  # fmt: skip
            network = build(config).eval()
            save_checkpoint(path.with_suffix(".safetensors"), network, trained=False)
            save_checkpoint(path, network, trained=False)

        return self._made("micro.pth", make)

    @cached_property
    def bundle(self) -> Path:
        """The folder of a bundle of `checkpoint`, without engines."""

        def make(path: Path) -> None:
            from sdtc.export.bundle import ExportOptions, export

            export(self.checkpoint, path, ExportOptions(batch=(1, 4, 8), plan=False), quiet=True)

        return self._made("bundle", make)

    @cached_property
    def manifest(self) -> Any:
        """The bundle's manifest, as JSON has it."""
        return json.loads((self.bundle / "model.json").read_text(encoding="utf-8"))

    def engine(self) -> PoseEngine:
        """Return an engine that stays open as long as this process."""
        if self._engine is None:
            from sdtc.runtime.engine import open
            from sdtc.runtime.options import EngineOptions

            self._engine = open(self.bundle / "model.onnx", EngineOptions(backend="onnxruntime", threads=1))
        return self._engine

    def _made(self, name: str, make: Callable[[Path], None]) -> Path:
        path = self.folder / name
        if not path.exists():
            temporary = self.folder / str(os.getpid()) / name
            temporary.parent.mkdir(exist_ok=True)
            make(temporary)
            for file in (path for path in temporary.parent.iterdir() if path.name != name):
                os.replace(file, self.folder / file.name)
            os.replace(temporary, path)
            temporary.parent.rmdir()
        return path


def _write_video(
    path: Path, codec: str, pixels: str, size: tuple[int, int], frames: int, fps: int, options: dict[str, str]
) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options={"threads": "1", **options})
        stream.height, stream.width = size
        stream.pix_fmt = pixels
        for number in range(frames):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(picture(number, size), format="rgb24").reformat(format=pixels))
            )
        container.mux(stream.encode(None))


def _by_pillow(image: np.ndarray) -> dict[str, bytes]:
    """Return what OpenCV does not write; nothing where Pillow is not installed."""
    import io

    try:
        from PIL import Image
    except ImportError:
        return {}
    plain, other = Image.fromarray(image), Image.fromarray(np.ascontiguousarray(image[::-1]))
    files = {}
    for name, picture, options in (
        ("cmyk.jpg", plain.convert("CMYK"), {}),
        ("palette.png", plain.convert("P"), {}),
        ("bilevel.tiff", plain.convert("1"), {}),
        ("animated.webp", plain, {"save_all": True, "append_images": [other, plain]}),
        ("animated.png", plain, {"save_all": True, "append_images": [other, plain]}),
        ("pages.tiff", plain, {"save_all": True, "append_images": [other, plain]}),
        ("progressive.jpg", plain, {"progressive": True}),
    ):
        buffer = io.BytesIO()
        kind = {".jpg": "JPEG", ".png": "PNG", ".tiff": "TIFF", ".webp": "WEBP"}[Path(name).suffix]
        picture.save(buffer, kind, **options)
        files[name] = buffer.getvalue()
    return files
