"""The bundle's `model.kernels.json`: the GPU kernels that the runtime launches itself, compiled when it was exported.

The engines leave three things to do on the GPU: cut crops out of a frame, copy the encoder's tokens into their slots,
and gather tokens into windows, resampled where their keyframe's tokens lie. Heatmaps are decoded inside the temporal
graph, so no kernel here does that.

Like an engine, this file is code: run only bundles of people you trust. The checks here make sure that the file is
complete and belongs to its bundle.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from sdtc.core.errors import BundleError, InputError
from sdtc.core.files import read_json, write_json
from sdtc.core.manifest import Manifest
from sdtc.core.settings import build_from_json

SCHEMA_VERSION = 3
_READABLE = (2, SCHEMA_VERSION)  # a kernel of version 2 has a cubin or PTX, never both
ALIGNMENT = 16  # bytes: all pointers are multiples of this
MAX_BYTES = 32 << 20
# By kernel, the names of its arguments in order.
SIGNATURES = {
    "crop_frame": ("frame", "matrices", "frame_height", "frame_width", "crops"),
    "gather_tokens": ("source", "slots", "places", "target"),
    "scatter_tokens": ("source", "slots", "target"),
}
SCALARS = ("frame_height", "frame_width")  # int32; all others are pointers
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@dataclass(frozen=True)
class KernelCode:
    """One kernel for one GPU architecture: a cubin for exactly that architecture, PTX for it and its relatives.

    Either may be too new for a driver: PTX has the version of its language, a cubin that of its file format.

    Attributes:
        entry: name of the function.
        architecture: e.g. 86.
        arguments: names in order, see `SIGNATURES`.
        hidden: number of null pointers that the cubin's function takes after its arguments; the PTX's takes none.
        blocks: thread blocks of one item: of a crop, or of a row of tokens.
        num_warps: warps of a block, of 32 threads each.
        shared: dynamic shared memory of a block, bytes.
        ptx, cubin: the code, at least one of the two; the cubin in base64.
    """

    entry: str
    architecture: int
    arguments: tuple[str, ...]
    hidden: int
    blocks: int
    num_warps: int
    shared: int
    ptx: str = ""
    cubin: str = ""

    def images(self) -> list[tuple[bytes, int]]:
        """Return the code as the CUDA driver loads it, with the null pointers that it takes; the best first."""
        images = [(base64.b64decode(self.cubin), self.hidden)] if self.cubin else []
        return [*images, (self.ptx.encode() + b"\0", 0)] if self.ptx else images


@dataclass(frozen=True)
class KernelFile:
    """The kernels of a bundle.

    Attributes:
        input_size: (H, W) of a crop.
        token_shape: (L, C) of a frame's tokens, in fp32.
        kernels: by compute capability (``"8.6"``), then by name.
    """

    input_size: tuple[int, int]
    token_shape: tuple[int, int]
    kernels: dict[str, dict[str, KernelCode]]
    schema_version: int = SCHEMA_VERSION

    def save(self, path: Path) -> None:
        """Write the file, atomically."""
        write_json(path, dataclasses.asdict(self))

    @staticmethod
    def load(path: Path, manifest: Manifest) -> KernelFile:
        """Read and check the file of a bundle.

        Raises:
            BundleError: the file is damaged, too large, of a newer schema, or of another bundle.
        """
        try:
            data = read_json(path, "kernels", MAX_BYTES)
            file = build_from_json(KernelFile, data)
            file._check(manifest)
        except InputError as error:
            raise BundleError(str(error)) from None
        except ValueError as error:
            raise BundleError(
                f"kernels file '{path}' is damaged ({error}): export the checkpoint again with export/to_trt.py"
            ) from None
        return file

    def _check(self, manifest: Manifest) -> None:
        def expect(condition: bool, what: str) -> None:
            if not condition:
                raise ValueError(what)

        expect(self.schema_version in _READABLE, f"schema_version is {self.schema_version}")
        for name in ("input_size", "token_shape"):
            ours, theirs = getattr(self, name), getattr(manifest, name)
            expect(ours == theirs, f"{name} is {ours}, the manifest's {theirs}")
        expect(crops_are_aligned(self.input_size), f"input_size is {self.input_size}")
        for capability, kernels in self.kernels.items():
            expect(bool(_CAPABILITY.fullmatch(capability)), f"bad compute capability {capability[:20]!r}")
            expect(set(kernels) == set(SIGNATURES), f"kernels for {capability} are {sorted(kernels)[:5]}")
            for name, code in kernels.items():
                where = f"{capability} {name}"
                expect(bool(_NAME.fullmatch(code.entry)), f"bad entry of {where}")
                expect(code.arguments == SIGNATURES[name], f"arguments of {where} are {code.arguments[:9]}")
                expect(0 <= code.hidden <= 4, f"hidden of {where} is {code.hidden}")
                expect(1 <= code.blocks <= 1 << 20, f"blocks of {where} is {code.blocks}")
                expect(code.num_warps in (1, 2, 4, 8, 16, 32), f"num_warps of {where} is {code.num_warps}")
                expect(0 <= code.shared <= 48 << 10, f"shared of {where} is {code.shared}")
                expect(_is_code(code), f"{where} is no code")


def crops_are_aligned(input_size: tuple[int, int]) -> bool:
    """Whether every crop of a batch begins at a multiple of `ALIGNMENT` bytes, as the crop kernel requires."""
    return input_size[0] * input_size[1] * 3 % ALIGNMENT == 0


def _is_code(code: KernelCode) -> bool:
    if code.ptx and not (code.ptx.isascii() and "\0" not in code.ptx and f".entry {code.entry}(" in code.ptx):
        return False
    if not code.cubin:
        return bool(code.ptx)
    try:
        return base64.b64decode(code.cubin, validate=True).startswith(b"\x7fELF")
    except (binascii.Error, ValueError):
        return False
