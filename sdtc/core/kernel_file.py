"""The bundle's `model.kernels.json`: the GPU kernels that the runtime launches itself, compiled when it was exported.

Around the engines three things are left to do on the GPU: to cut crops out of a frame, to put the encoder's tokens into
their slots, and to gather them into windows. Decoding of heatmaps is no kernel here: it is inside the temporal graph.

Like an engine, this is code: run bundles of people you trust. What is checked here is that it is whole and belongs to
its bundle.
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

SCHEMA_VERSION = 1
ALIGNMENT = 16  # bytes: what the kernels' pointers are multiples of
MAX_BYTES = 32 << 20
# By kernel, its arguments in order.
SIGNATURES = {
    "crop_frame": ("frame", "matrices", "frame_height", "frame_width", "crops"),
    "gather_tokens": ("source", "slots", "target"),
    "scatter_tokens": ("source", "slots", "target"),
}
SCALARS = ("frame_height", "frame_width")  # int32; all others are pointers
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,100}")
_CAPABILITY = re.compile(r"[0-9]{1,2}\.[0-9]")


@dataclass(frozen=True)
class KernelCode:
    """One kernel for one GPU architecture: a cubin for exactly that one, or PTX for it and its relatives.

    Attributes:
        entry: name of the function.
        architecture: e.g. 86.
        arguments: in order, see `SIGNATURES`.
        hidden: null pointers that the function takes after them.
        blocks: of one item: a crop, or a row of tokens.
        num_warps: a block has 32 times as many threads.
        shared: dynamic shared memory of a block, bytes.
        ptx, cubin: the code, one of the two; the cubin in base64.
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

    def image(self) -> bytes:
        """Return what a driver loads."""
        return base64.b64decode(self.cubin) if self.cubin else self.ptx.encode() + b"\0"


@dataclass(frozen=True)
class KernelFile:
    """The kernels of a bundle.

    Attributes:
        input_size: (H, W) of a crop.
        token_shape: (L, C) of a frame's tokens, in fp32.
        kernels: by compute capability (``"8.6"``) and name.
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
            BundleError: damaged, too large, of a newer schema, or of another bundle.
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

        expect(self.schema_version == SCHEMA_VERSION, f"schema_version is {self.schema_version}")
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
    """Whether every crop of a batch begins where the kernel may write one."""
    return input_size[0] * input_size[1] * 3 % ALIGNMENT == 0


def _is_code(code: KernelCode) -> bool:
    if bool(code.ptx) == bool(code.cubin):
        return False
    if code.ptx:
        return code.ptx.isascii() and "\0" not in code.ptx and f".entry {code.entry}(" in code.ptx
    try:
        return base64.b64decode(code.cubin, validate=True).startswith(b"\x7fELF")
    except (binascii.Error, ValueError):
        return False
