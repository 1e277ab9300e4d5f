"""The labelled sets: what they consist of, that they reward temporal context, and making them in pieces."""

from __future__ import annotations

import json
import multiprocessing
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from sdtc.core.errors import InputError, OutputError, SdtcError
from sdtc.core.posetrack import image_id, to_slots
from sdtc.synthetic import SyntheticClip, benchmark
from sdtc.synthetic.benchmark import Summary, missing_clips, recipe, set_clips, summarise, write_clips
from sdtc.synthetic.cli import main
from sdtc.synthetic.clip import MAX_SEED, ClipOptions, build_scene
from sdtc.synthetic.difficulty import DIFFICULTIES

TINY = "--clips 20 --frames 20 --size 72x96"


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def tiny(clips: int, num_frames: int = 3) -> list[ClipOptions]:
    return set_clips("val", clips, num_frames, (48, 64), 25)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small validation set, made by two workers."""
    root = tmp_path_factory.mktemp("set")
    assert main(f"--set val {TINY} --workers 2 --quiet --output {root}".split()) == 0
    return root


@pytest.fixture(scope="module")
def summary(val: Path) -> Summary:
    return summarise(val, "val")


# What a set is


def test_half_of_the_clips_are_plain_and_the_rest_have_every_pair_in_turn() -> None:
    recipes = [recipe(seed) for seed in range(500_000, 500_020)]
    assert all(not difficulties for difficulties in recipes[::2])
    assert len(set(recipes[1::2])) == 10
    assert Counter(name for difficulties in recipes for name in difficulties) == dict.fromkeys(DIFFICULTIES, 4)


def test_the_sets_share_no_seed_and_a_longer_one_begins_with_the_same_clips() -> None:
    train, val = (set(range(first, first + benchmark.MAX_CLIPS)) for first in benchmark.FIRST_SEED.values())
    assert not train & val
    assert not (train | val) & set(range(1000))  # which everybody draws
    assert max(train | val) <= MAX_SEED
    assert [options.seed for options in set_clips("train", 3, 1, (48, 64), 25)] == [100_000, 100_001, 100_002]
    assert tiny(9)[:4] == tiny(4)
    people = {len(build_scene(options).people) for options in set_clips("val", 20, 1, (48, 64), 25)}
    assert people == {1, 2, 3, 4}


@pytest.mark.slow
def test_every_difficulty_has_its_share(summary: Summary) -> None:
    print(f"\nthe small validation set: {summary}")
    assert (summary.clips, summary.frames) == (20, 400)
    assert summary.people > 600
    assert 0.3 < summary.plain < 0.7
    for name in DIFFICULTIES:
        assert 0.05 <= summary.shares[name] <= 0.4, name


@pytest.mark.slow
def test_most_hidden_joints_are_seen_within_two_frames(summary: Summary) -> None:
    print(f"\nof {summary.hidden} covered joints {summary.recoverable:.1%} are seen within two frames")
    assert summary.hidden > 1000
    assert summary.recoverable >= 0.4


def test_what_is_counted(tmp_path: Path) -> None:
    """One person in nine frames; one joint is hidden in 1 and 3 to 8, another is always outside the picture."""
    hidden = [1, 3, 4, 5, 6, 7, 8]
    annotations = []
    for frame in range(9):
        keypoints, occluded = np.ones((15, 3)), np.zeros((15, 1), bool)
        keypoints[4, 2] = 0
        occluded[9] = frame in hidden
        labels = ["blur", "low_light"] if frame < 3 else ["blur"] if frame == 3 else []
        annotations.append(
            {
                "image_id": frame, "track_id": 5, "difficulty": labels,
                "keypoints": to_slots(keypoints).reshape(-1).tolist(), "occluded": to_slots(occluded)[:, 0].tolist(),
            }
        )  # fmt: skip
    path = tmp_path / "annotations" / "train" / "100000_synthetic.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"images": [{"id": frame} for frame in range(9)], "annotations": annotations}))
    counted = summarise(tmp_path, "train")
    assert (counted.clips, counted.frames, counted.people, counted.hidden) == (1, 9, 9, 7)
    assert counted.shares == {"occluded": 0, "crossing": 0, "blur": 4 / 9, "defocus": 0, "low_light": 3 / 9}
    assert counted.plain == 5 / 9
    assert counted.recoverable == 3 / 7  # those of frames 1, 3 and 4: it is seen in 0 and 2
    assert "43% are seen within 2 frames" in str(counted)


# What is written


@pytest.mark.slow
def test_layout_and_labels(val: Path) -> None:
    names = [f"{seed:06d}_synthetic" for seed in range(500_000, 500_020)]
    assert sorted(path.stem for path in (val / "annotations" / "val").iterdir()) == names
    assert sorted(path.name for path in (val / "images" / "val").iterdir()) == names
    assert {path.name for path in val.iterdir()} == {"annotations", "images"}
    clip = SyntheticClip(set_clips("val", 2, 20, (72, 96), 25)[1])
    data = json.loads((val / "annotations" / "val" / "500001_synthetic.json").read_text())
    assert data["info"] == clip.options.to_json()
    assert data["info"]["difficulties"] == list(recipe(500_001))
    for index in (0, 11, 19):
        frame, entry = clip[index], data["images"][index]
        assert (val / entry["file_name"]).is_file()
        assert entry["id"] == image_id("500001", index)
        people = [person for person in data["annotations"] if person["image_id"] == entry["id"]]
        labels = [[name for name, holds in zip(DIFFICULTIES, row, strict=True) if holds] for row in frame.difficulty]
        assert [person["difficulty"] for person in people] == labels
        assert entry["difficulty"] == [name for name in DIFFICULTIES if any(name in row for row in labels)]


@pytest.mark.slow
def test_the_files_do_not_depend_on_the_number_of_workers(val: Path, tmp_path: Path) -> None:
    write_clips(set_clips("val", 8, 20, (72, 96), 25)[1::2], tmp_path, workers=1)
    there = files(val)
    assert len(files(tmp_path)) == 4 * 21
    for name, data in files(tmp_path).items():
        assert there[name] == data, name


def test_a_training_set_lies_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val"):
        assert main(f"--set {split} --clips 2 --frames 2 --size 48x64 --workers 1 --output {tmp_path}".split()) == 0
        out = capsys.readouterr().out
        assert re.search(rf"wrote 2 clips of 2 frames .*\nthe {split} set: 2 clips, 4 frames", out)
    assert len(list((tmp_path / "images" / "train").iterdir())) == 2
    data = json.loads((tmp_path / "annotations" / "train" / "100000_synthetic.json").read_text())
    assert data["images"][1]["file_name"] == "images/train/100000_synthetic/000001.jpg"


# In pieces


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupted_set_has_only_whole_clips_and_goes_on(
    workers: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tiny(24)

    finished: list[int] = []

    def stop(frames: int) -> None:
        finished.append(frames)
        if sum(finished) > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clips(clips, tmp_path, workers=workers, on_frames=stop)
    before = files(tmp_path)
    done = {path.stem for path in (tmp_path / "annotations" / "val").iterdir()}
    assert 2 <= len(done) < 24
    assert {path.name for path in (tmp_path / "images" / "val").iterdir()} == done
    assert len(before) == 4 * len(done)
    assert [options.seed for options in missing_clips(clips, tmp_path, "val")] == [
        options.seed for options in clips if f"{options.seed}_synthetic" not in done
    ]

    drawn = []
    monkeypatch.setattr(benchmark, "write_clip", lambda clip, *_, **__: drawn.append(clip.seed))
    assert main(f"--set val --clips 24 --frames 3 --size 48x64 --workers 1 --output {tmp_path}".split()) == 0
    assert len(drawn) == 24 - len(done)
    assert f"({len(done)} existed already)" in capsys.readouterr().out
    assert files(tmp_path) == before


@pytest.mark.slow
def test_a_whole_set_is_recognised_whatever_its_recipes(tmp_path: Path) -> None:
    clips = set_clips("train", 20, 1, (32, 32), 25)
    write_clips(clips, tmp_path, "train")
    assert missing_clips(clips, tmp_path, "train") == []
    assert missing_clips(clips[:3], tmp_path, "train") == []
    assert len(missing_clips(set_clips("train", 22, 1, (32, 32), 25), tmp_path, "train")) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--frames 4 --size 48x64", "was made with num_frames 3, now it is 4"),
        ("--frames 3 --size 48x66", r"was made with size \[48, 64\], now it is \[48, 66\]"),
        ("--frames 3 --size 48x64 --fps 30", "was made with fps 25.0, now it is 30.0"),
    ],
)
def test_clips_of_another_configuration_are_refused(
    options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clips(tiny(2), tmp_path)
    before = files(tmp_path)
    assert main(f"--set val --clips 3 {options} --output {tmp_path}".split()) == 2
    message = capsys.readouterr().err
    assert re.search(words, message)
    assert "500000_synthetic.json" in message
    assert "choose another --output or the same options" in message
    assert files(tmp_path) == before


@pytest.mark.parametrize("content", ["{}", "[]", '{"info": []}', '{"info": {"seed": 7}}', '{"info": {"seed": "x"}}'])
def test_other_peoples_clips_are_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "val" / "000007_synthetic.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    with pytest.raises(InputError, match="is not a clip of the val set: choose another `root`"):
        missing_clips(tiny(2), tmp_path, "val")


def test_what_fails_in_a_worker_is_said(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file where a folder should be")
    with pytest.raises(OutputError, match="cannot write"):
        write_clips(tiny(3), tmp_path, workers=2)


@pytest.mark.slow
def test_a_worker_that_dies_is_noticed(tmp_path: Path) -> None:
    def kill(_: int) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    with pytest.raises(SdtcError, match="fewer `workers`"):
        write_clips(tiny(20), tmp_path, workers=2, on_frames=kill)


# What the command refuses


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--set val --seed 3", "--set val decides --seed"),
        ("--set val --people 2", "--set val decides --people"),
        ("--set train --difficulty blur", "--set train decides --difficulty"),
        ("--set val --clips 500000", "at most 400000"),
        ("--set val --workers 0", "--workers is 0"),
        ("--difficulty fog", "--difficulty: 'fog' is unknown"),
        ("--people 1 --difficulty crossing", "--people is 1: the difficulty crossing needs at least 2"),
        ("--frames 0", "--frames is 0: expected 1 to 10000"),
        ("--size 9x64", "the height in --size is 9: expected 32 to 8192"),
    ],
)
def test_the_command_refuses(options: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*options.split(), "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_single_clips_can_be_hard_and_lively_too(tmp_path: Path) -> None:
    options = "--frames 3 --size 48x64 --people 2 --difficulty low_light,blur --lively --no-video --quiet"
    assert main([*options.split(), "--output", str(tmp_path)]) == 0
    info = json.loads((tmp_path / "annotations" / "val" / "000000_synthetic.json").read_text())["info"]
    assert (info["difficulties"], info["lively"], info["seed"]) == (["blur", "low_light"], True, 0)
