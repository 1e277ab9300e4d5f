"""Target: whole runs of `sdtc-infer`, and a validator of everything that they leave."""

from __future__ import annotations

import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import av

from sdtc.runtime.cli import main
from tests.fuzz.corpus import VIDEOS
from tests.fuzz.documents import make_boxes
from tests.fuzz.mutate import json_bytes, mutate_bytes, mutate_json
from tests.fuzz.oracle import Case, Finished, check_no_leftovers, expect, run_command, strict_json

_DONE = re.compile(r"^done     (\d+) frames, (\d+) poses of (\d+) people in ", re.MULTILINE)


def run(case: Case) -> None:
    """Run over a video or a folder of images, whole or damaged, with boxes, whole or damaged."""
    rng, output = case.rng, case.folder / "out"
    name = rng.choice(sorted(VIDEOS))
    stem = rng.choice(("clip", "clip", "000001_x", "é x", "a.b", "x" * 120, "[1]", "-v"))
    if case.chance(0.7):
        source, sound = case.folder / f"{stem}{Path(name).suffix}", case.chance(0.4)
        data = case.corpus.video(name)
        source.write_bytes(data if sound else mutate_bytes(data, rng))
    else:
        source, sound = case.folder / stem, True
        source.mkdir()
        for number in range(rng.randrange(1, 6)):
            content = case.corpus.images[rng.choice(("plain.png", "plain.jpg", "grey.png"))]
            if case.chance(0.2):
                content, sound = mutate_bytes(content, rng), False
            (source / f"{number:06d}.png").write_bytes(content)
    format = rng.choice(("posetrack", "coco", "jsonl"))
    video, smooth = case.chance(0.4), case.chance(0.3)
    arguments = [
        "--engine", str(case.corpus.bundle / "model.onnx"), f"--input={source}", "--output", str(output),
        "--backend", "onnxruntime", "--threads", "1", "--format", format,
    ]  # fmt: skip
    arguments += ["--save-video"] * video + ["--smooth"] * smooth + ["--exact"] * case.chance(0.2)
    arguments += ["--max-frames", str(rng.randrange(1, 9))] if case.chance(0.3) else []
    if case.chance(0.85):
        boxes: Any = make_boxes(case, rng.randrange(1, 12), case.chance(0.4), stem)
        if case.chance(0.3):
            boxes = mutate_json(boxes, rng)
        (case.folder / "boxes.json").write_bytes(json_bytes(boxes, rng, 0.1)[0])
        arguments += ["--boxes", str(case.folder / "boxes.json")]
    else:
        arguments += ["--detect-every", str(rng.choice((0, 0.1, 1)))]
    before = {path: path.read_bytes() for path in case.folder.rglob("*") if path.is_file()}
    done = run_command(main, arguments)
    for path, content in before.items():
        expect(path.read_bytes() == content, f"the input {path.name} was changed")
    frames = _validate(output, format, video, done)
    if format == "jsonl" and not video and case.chance(0.5) and done.code in (0, 1):
        _resume(case, arguments, output, frames)


def _resume(case: Case, arguments: list[str], output: Path, frames: int) -> None:
    """Cut the results off anywhere and go on: they end as they were."""
    files = list(output.glob("*.jsonl"))
    if len(files) != 1:
        return
    whole = files[0].read_bytes()
    files[0].write_bytes(whole[: case.rng.randrange(len(whole) + 1)])
    done = run_command(main, [*arguments, "--resume"])
    if done.code == 2:
        return
    again = _validate(output, "jsonl", False, None)
    expect(again == frames, f"{frames} frames, after resuming {again}")
    if "--smooth" not in arguments:
        numbers = [[line["frame"], len(line["poses"])] for line in map(json.loads, whole.splitlines())]
        resumed = [[line["frame"], len(line["poses"])] for line in map(json.loads, files[0].read_bytes().splitlines())]
        expect(numbers == resumed, f"frames and their people were {numbers}, after resuming {resumed}")


def _validate(output: Path, format: str, video: bool, done: Finished | None) -> int:
    """Check every file of a run against the others and against what the command said; return the number of frames."""
    check_no_leftovers(output.parent)
    results = sorted(output.glob("*.json*")) if output.is_dir() else []
    said = _DONE.search(done.out) if done else None
    if done is not None:
        expect(done.code == 2 or said, f"exit code {done.code} without a last word: {done.out!r}")
        expect(len(results) <= 1, f"files {results}")
        for line in re.findall(r"^wrote    (.*)$", done.out, re.MULTILINE):
            expect(Path(line).is_file(), f"{line} was not written")
    if not results:
        expect(not said or int(said[1]) == 0, f"no results, but: {done and done.out!r}")
        return 0
    frames, poses, people = _read(results[0], format)
    if said:
        expect(poses == int(said[2]), f"the file has {poses} poses, the summary {said[2]}")
        expect(people == int(said[3]), f"the file has {people} people, the summary {said[3]}")
        expect(frames is None or frames == int(said[1]), f"the file has {frames} frames, the summary {said[1]}")
        frames = int(said[1])
    for path in output.glob("*.mp4"):
        expect(video, f"{path} was not asked for")
        with av.open(str(path)) as container:
            count = sum(1 for _ in container.decode(video=0))
        expect(frames is None or count == frames, f"the overlay has {count} frames, the results {frames}")
    return frames or 0


def _read(path: Path, format: str) -> tuple[int | None, int, int]:
    """Return the number of frames (None where the format does not say), poses and people of a file of results."""
    text = path.read_text(encoding="utf-8")
    if format == "jsonl":
        expect(text.endswith("\n") or not text, "a torn line")
        lines = [strict_json(line) for line in text.splitlines()]
        numbers = [line["frame"] for line in lines]
        poses = [(line["frame"], pose) for line in lines for pose in line["poses"]]
        count: int | None = len(lines)
    else:
        data = strict_json(text)
        images = data["images"] if format == "posetrack" else []
        numbers = [image["id"] for image in images]
        poses = [(pose["image_id"], pose) for pose in (data["annotations"] if format == "posetrack" else data)]
        count = len(images) if format == "posetrack" else None
        expect(format == "coco" or {image for image, _ in poses} <= set(numbers), "poses of images that are not listed")
        expect(
            [image for image, _ in poses] == sorted(image for image, _ in poses) or format == "posetrack",
            "frames out of order",
        )
    expect(
        all(a < b for a, b in pairwise(numbers)) or format == "posetrack",
        f"frame numbers {numbers}",
    )
    expect(len(set(numbers)) == len(numbers), f"an image twice: {numbers}")
    ids = [(image, pose["track_id"]) for image, pose in poses]
    expect(len(set(ids)) == len(ids), f"two people of a frame share an id: {ids}")
    for _, pose in poses:
        expect(_all_finite(pose), f"not finite: {pose}")
        expect(len(pose["bbox"]) == 4 and min(pose["bbox"][2:]) >= 0, f"bbox {pose['bbox']}")
    return count, len(poses), len({track for _, track in ids})


def _all_finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_all_finite, value.values()))
    if isinstance(value, list):
        return all(map(_all_finite, value))
    return not isinstance(value, float) or math.isfinite(value)
