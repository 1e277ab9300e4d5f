"""What the technical pages say about the code is still so: paths, fields, rooms, threads, recipes."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from sdtc.core.manifest import EngineInfo, GraphFiles, Manifest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FOLDERS = ("sdtc", "kernels", "export", "runtime", "benchmarks", "tests", "docs")


def load_architecture():
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["architecture"] = module
    spec.loader.exec_module(module)
    return module


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def named_paths(text: str) -> set[str]:
    """Paths of this repository that a page names in backticks or commands."""
    pattern = rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/(?:[\w.*-]+/)*[\w.*-]*"
    return {path.rstrip(".") for path in re.findall(pattern, text)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_that_pages_name_exist(page) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for path in named_paths(text):
        if "NAME" in path:  # of a file that a recipe tells to make: its folder must be there
            path = path.split("NAME")[0].rsplit("/", 1)[0]
        assert list(ROOT.glob(path)), f"{page.name} names {path}"


def test_bundle_page_lists_every_field_of_the_manifest() -> None:
    page = text_of("docs/bundle.md")
    listed = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| `.*", page, re.MULTILINE))))
    for kind in (Manifest, GraphFiles, EngineInfo):
        assert {field.name for field in dataclasses.fields(kind)} <= listed, kind.__name__


def test_bundle_page_lists_what_an_export_measures(tiny_bundle) -> None:
    page, manifest = text_of("docs/bundle.md"), Manifest.load(tiny_bundle / "model.json")
    assert manifest.parity
    for name, figures in manifest.parity.items():
        assert f"`{name}`" in page
        assert all(f"`{figure}`" in page for figure in figures if figure != "frames")
    for path in tiny_bundle.iterdir():
        assert f"`{path.name}`" in page


def test_training_page_lists_every_key_of_a_configuration() -> None:
    from sdtc.training.augmentation import AugmentationConfig, BoxNoise
    from sdtc.training.train_config import TrainConfig, config_names

    page = text_of("docs/training.md")
    rows = "\n".join(re.findall(r"^\| `.*", page.split("### Every key")[1].split("\n## ")[0], re.MULTILINE))
    for kind in (TrainConfig, AugmentationConfig, BoxNoise):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in rows, field.name
    numbers = [field for kind in (AugmentationConfig, BoxNoise) for field in dataclasses.fields(kind)]
    numbers = [field for field in numbers if isinstance(field.default, float | int)]
    assert len(numbers) == 9
    for field in numbers:
        assert f"`{field.name}` {field.default:g}" in rows
    assert all(f"`{name}`" in page for name in config_names())


def test_evaluation_page_states_the_rule_of_a_match() -> None:
    from sdtc.evaluation.ap import HEAD_SIZE_FACTOR, MATCH_DISTANCE
    from sdtc.evaluation.score_table import PAPER

    page = text_of("docs/evaluation.md")
    assert MATCH_DISTANCE == 0.5
    assert "half the head size" in page
    assert f"{HEAD_SIZE_FACTOR:g} × the diagonal of the head box" in page
    for row in PAPER.values():
        assert " | ".join(f"{value}" for value in row.values) in page


def test_latency_tables_are_those_of_the_csv_file() -> None:
    page = text_of("docs/benchmarks.md")
    with (ROOT / "docs" / "latency" / "latency.csv").open(encoding="utf-8") as file:
        speed = {
            (row["preset"], row["case"], row["people"]): float(row["keyframes_per_second"])
            for row in csv.DictReader(file)
        }
    cases = {
        "PyTorch, sliding window": "torch", "ONNX Runtime, frame by frame": "onnxruntime-streaming",
        "OpenVINO, frame by frame": "openvino-streaming", "OpenVINO, whole windows": "openvino-windows",
        "OpenVINO `--precision int8`, frame by frame": "openvino-int8-streaming",
    }  # fmt: skip
    for preset in ("base", "tiny"):
        part = page.split(f"### `{preset}`")[1].split("### ")[0]
        for title, case in cases.items():
            row = re.search(rf"^\| {re.escape(title)} \|(.*)\|$", part, re.MULTILINE)
            assert row, title
            cells = [float(cell.split("/")[0].replace(",", "")) for cell in row[1].split("|")]
            assert cells[0] == pytest.approx(speed[preset, case, "1"], rel=0.005)
            assert cells[-1] == pytest.approx(speed[preset, case, "8"], rel=0.005)


@pytest.mark.slow
def test_the_drawing_of_the_rooms_is_up_to_date() -> None:
    architecture = load_architecture()
    rooms, _ = architecture.rooms_and_arrows()
    drawing = text_of("docs/architecture.svg")
    assert set(re.findall(r'id="room ([\w.]+)"', drawing)) == set(rooms), "run  python docs/architecture.py"
    drawn = {tuple(pair.split()) for pair in re.findall(r'id="arrow ([\w. ]+)"', drawing)}
    assert drawn == architecture.drawn_arrows(), "run  python docs/architecture.py"


def test_the_architecture_page_has_a_part_for_every_room() -> None:
    page = text_of("docs/architecture.md")
    headings = " ".join(re.findall(r"^### (.*)", page, re.MULTILINE))
    architecture = load_architecture()
    rooms, _ = architecture.rooms_and_arrows()
    for room in rooms:
        label = architecture.label_of(room, rooms)
        inside = label.partition("/")[2]  # rooms of one folder may share a heading, which names the folder once
        assert f"`{label}`" in headings or f"`{inside}`" in headings, label


def test_the_threads_that_the_architecture_page_names_are_started() -> None:
    page = text_of("docs/architecture.md")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "runtime").rglob("*.py"))
    named = set(re.findall(r"`sdtc-(decode|live|detect|pose)`", page))
    assert named == {"decode", "live", "detect", "pose"}
    for name in named - {"live"}:
        assert f'"{name}"' in sources, name
    assert '"sdtc-live"' in sources


def test_recipes_name_tests_and_tables_that_exist() -> None:
    recipes = text_of("CONTRIBUTING.md").split("## Recipes")[1]
    sources = "\n".join(
        path.read_text(encoding="utf-8") for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")
    )
    for name in re.findall(
        r"`(test_\w+|_?[A-Z][A-Z_]+|write_network|recognise|cpu_candidates|function_protos)`", recipes
    ):
        if name != "NAME":
            assert re.search(rf"\b{name}\b", sources.replace(f'"{name}"', "")), name
