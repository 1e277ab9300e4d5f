"""Command-line options that choose the backend, shared by every command that opens an engine."""

from __future__ import annotations

import argparse

from sdtc.core.manifest import FLAVOURS

# Defined here and not where they are used, so that `--help` imports nothing heavy.
BACKENDS = ("auto", "onnxruntime", "openvino", *FLAVOURS)
DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


def add_device_argument(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--device``."""
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: %(default)s")


def add_backend_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add ``--device``, ``--backend``, ``--precision`` and ``--threads``."""
    add_device_argument(parser)
    parser.add_argument(
        "--backend", choices=BACKENDS, default="auto",
        help="auto: on a CPU the fastest of the installed ones, measured once per bundle (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32",
        help="precision on a CPU; bf16 and int8 need OpenVINO and a processor that supports them, and are slightly "
        "less exact; auto: the fastest (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: one or all, whichever is faster)"
    )
