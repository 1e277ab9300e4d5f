from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from sdtc.core.errors import VideoError
from sdtc.runtime.pipeline import overlap
from sdtc.runtime.sources.images import ImageSequence
from sdtc.runtime.sources.open import find_inputs, open_input, open_source
from sdtc.runtime.sources.video import VideoFile


def picture(index: int, size=(48, 64)) -> np.ndarray:
    """A frame whose brightness is its index."""
    return np.full((*size, 3), 4 * index % 256, np.uint8)


def write_video(path: Path, frames: int, options: dict | None = None, corner: bool = False) -> Path:
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.thread_count = 1  # else the size of a file depends on how busy the machine is
        for index in range(frames):
            noise = np.random.default_rng(index).integers(0, 3, (48, 64, 3), dtype=np.uint8)  # every frame has bytes
            image = picture(index) + noise
            if corner:
                image[:16, :16] = 255
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def cut_within_packet(path: Path, index: int) -> bytes:
    """Return a video up to the middle of a packet, whatever its encoder made of the others."""
    with av.open(str(path)) as container:
        packet = [each for each in container.demux(video=0) if each.size][index]
    return path.read_bytes()[: packet.pos + packet.size // 2]


def write_images(folder: Path, numbers, pattern="{:06d}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        cv2.imwrite(str(folder / pattern.format(number)), picture(number))
    return folder


def test_video_gives_every_frame_in_order_as_rgb(tmp_path) -> None:
    source = open_source(write_video(tmp_path / "clip.mp4", 30))
    with source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(30))
    assert source.num_frames == 30
    assert source.fps == 10
    assert source.problems == []
    assert all(frame.image.shape == (48, 64, 3) and frame.image.dtype == np.uint8 for frame in frames)
    assert np.abs([frame.image.mean() - 4 * frame.index for frame in frames]).max() < 4


def test_channels_are_rgb(tmp_path) -> None:
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 0] = 255
    cv2.imwrite(str(tmp_path / "000000.png"), red[..., ::-1])  # OpenCV writes BGR
    assert next(iter(open_source(tmp_path))).image[0, 0].tolist() == [255, 0, 0]


def test_a_phones_rotation_is_undone(tmp_path) -> None:
    """A video stored sideways with a display matrix, as phones do."""
    path = write_video(tmp_path / "plain.mp4", 3, corner=True)
    data = bytearray(path.read_bytes())
    # the 3x3 matrix of the track header: identity -> a quarter turn
    one, identity = (1 << 16).to_bytes(4, "big"), None
    identity = one + bytes(12) + one + bytes(12) + (1 << 30).to_bytes(4, "big")
    turned = (
        bytes(4)
        + one
        + bytes(4)
        + (0x100000000 - (1 << 16)).to_bytes(4, "big")
        + bytes(16)
        + (1 << 30).to_bytes(4, "big")
    )
    track_header = data.find(b"tkhd")
    start = data.find(identity, track_header)
    assert start > 0
    data[start : start + 36] = turned
    (tmp_path / "turned.mp4").write_bytes(data)
    with open_source(path) as source:
        assert bright_corner(next(iter(source)).image) == "top left"
    with open_source(tmp_path / "turned.mp4") as source:
        image = next(iter(source)).image
    assert image.shape == (64, 48, 3)
    assert bright_corner(image) == "top right"  # the matrix turns the picture a quarter clockwise


def bright_corner(image: np.ndarray) -> str:
    height, width = image.shape[0] // 2, image.shape[1] // 2
    halves = {"top left": image[:height, :width], "top right": image[:height, width:]}
    halves |= {"bottom left": image[height:, :width], "bottom right": image[height:, width:]}
    return max(halves, key=lambda name: halves[name].mean())


@pytest.mark.parametrize("content", [b"", b"this is not a video\n" * 50])
def test_empty_and_wrong_files(tmp_path, content) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"empty|cannot be opened as a video"):
        open_source(path)


def test_missing_file_and_folder_without_images(tmp_path) -> None:
    with pytest.raises(VideoError, match="does not exist"):
        open_source(tmp_path / "nothing.mp4")
    with pytest.raises(VideoError, match="holds no images"):
        open_source(tmp_path)
    with pytest.raises(VideoError, match="no file matches"):
        find_inputs(str(tmp_path / "*.mp4"))


def test_a_video_cut_off_in_the_middle_keeps_what_was_decoded(tmp_path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(cut_within_packet(write_video(tmp_path / "whole.mp4", 60, {"movflags": "+faststart"}), 40))
    with open_source(path) as source:
        frames = list(source)
    assert len(frames) == 40
    assert np.abs([frame.image.mean() - 4 * frame.index for frame in frames]).max() < 4
    assert len(source.problems) == 1
    assert "cut.mp4" in source.problems[0]
    assert f"after frame {len(frames) - 1}" in source.problems[0]


@pytest.mark.parametrize("threads", [1, 3])  # with several, FFmpeg decodes as many frames at once
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "mov", "avi"])
def test_cut_off_files_keep_every_frame_before_the_end(tmp_path, suffix, threads) -> None:
    """Matroska counts no frames; its header promises a duration."""
    whole = write_video(tmp_path / f"whole.{'mkv' if suffix == 'webm' else suffix}", 80, {"movflags": "+faststart"})
    with open_source(whole) as source:
        assert len(list(source)) == 80
        assert source.problems == []
    path = tmp_path / f"cut.{suffix}"
    path.write_bytes(cut_within_packet(whole, 44))
    with open_source(path) as source:
        source._stream.codec_context.thread_count = threads
        frames = list(source)
    assert len(frames) == 44
    assert np.abs([frame.image.mean() - 4 * frame.index for frame in frames]).max() < 4
    assert len(source.problems) == 1
    assert "cut off after frame 43" in source.problems[0]


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 3).rename("2026-01-01T12:00:00.mp4")
    with open_source(Path("2026-01-01T12:00:00.mp4")) as source:
        assert len(list(source)) == 3


def test_sparse_numbers_keep_their_numbers(tmp_path) -> None:
    """Two frames of a sequence, or pictures of a collection: ids come from the names, whatever lies between."""
    with open_source(write_images(tmp_path, [0, 40])) as source:
        assert [(frame.index, frame.number) for frame in source] == [(0, 0), (1, 40)]
    with open_source(write_images(tmp_path / "coco", [139, 397133], "{:012d}.png")) as source:
        assert [frame.number for frame in source] == [139, 397133]


def test_many_broken_images_are_one_sentence(tmp_path) -> None:
    write_images(tmp_path, range(9))
    for number in (2, 5, 6):
        (tmp_path / f"{number:06d}.png").write_bytes(b"")
    with open_source(tmp_path) as source:
        list(source)
    assert len(source.problems) == 1
    assert source.problems[0].startswith("3 images cannot be read")
    assert "000002.png" in source.problems[0]


def test_a_folder_in_the_order_of_its_numbers(tmp_path) -> None:
    write_images(tmp_path, [0, 2, 10, 9, 1], "frame{}.png")
    with open_source(tmp_path) as source:
        assert [frame.name for frame in source] == [f"frame{i}.png" for i in (0, 1, 2, 9, 10)]
        assert [frame.index for frame in source] == [0, 1, 2, 3, 4]


def test_gaps_in_posetrack_numbering_are_missing_frames(tmp_path) -> None:
    with open_source(write_images(tmp_path, [3, 4, 7])) as source:
        frames = list(source)
    assert [frame.number for frame in frames] == [3, 4, 5, 6, 7]
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.image is not None for frame in frames] == [True, True, False, False, True]
    assert source.problems == []


def test_numbers_that_are_no_frame_numbers_make_no_gaps(tmp_path) -> None:
    with open_source(write_images(tmp_path, [1_700_000_000, 1_700_999_999], "{}.png")) as source:
        assert len(list(source)) == 2


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 broken", b"text"])
def test_one_broken_image_is_a_missing_frame_and_is_told(tmp_path, content) -> None:
    write_images(tmp_path, range(5))
    (tmp_path / "000002.png").write_bytes(content)
    with open_source(tmp_path) as source:
        frames = list(source)
    assert [frame.image is not None for frame in frames] == [True, True, False, True, True]
    assert len(source.problems) == 1
    assert "000002.png" in source.problems[0]


def test_globs(tmp_path) -> None:
    write_video(tmp_path / "a.mp4", 3)
    write_video(tmp_path / "b.mp4", 3)
    write_images(tmp_path / "x", range(3))
    write_images(tmp_path / "y", range(2))
    names = [open_input(entry).name for entry in find_inputs(str(tmp_path / "*.mp4"))]
    assert names == ["a", "b"]
    sources = [open_input(entry) for entry in find_inputs(str(tmp_path / "*" / "*.png"))]
    assert [(type(s), s.name, s.num_frames) for s in sources] == [(ImageSequence, "x", 3), (ImageSequence, "y", 2)]
    assert [open_input(entry).name for entry in find_inputs(str(tmp_path / "[xy]"))] == ["x", "y"]
    assert find_inputs("no_magic.mp4") == [Path("no_magic.mp4")]


def test_a_single_image_is_a_sequence_of_one(tmp_path) -> None:
    write_images(tmp_path, [0, 1])
    with open_source(tmp_path / "000001.png") as source:
        assert [frame.name for frame in source] == ["000001.png"]


@pytest.mark.slow
def test_real_videos(real_data) -> None:
    for name, frames, size in (
        ("one-by-one", 1394, (432, 768)),
        ("street-5-frames", 5, (540, 960)),
        ("football-5-frames", 5, (720, 1280)),
    ):
        with open_source(real_data / "videos" / f"{name}.mp4") as source:
            assert isinstance(source, VideoFile)
            count = 0
            for frame in source:
                assert frame.image.shape[:2] == size
                count += 1
        assert count == frames
        assert source.problems == []


def test_a_video_closed_while_another_thread_decodes_it_just_ends(tmp_path) -> None:
    path = write_video(tmp_path / "v.mp4", 60)
    for taken in range(1, 20):
        source = VideoFile(path)
        frames = overlap(source, 2, "decode")
        seen = list(islice(frames, taken))
        source.close()
        seen += frames  # what waited; then the end
        assert [frame.index for frame in seen] == list(range(len(seen)))
        assert len(seen) <= taken + 4
        assert source.problems == []


@pytest.mark.parametrize("kind", ["images", "video"])
def test_stopping_ends_the_iteration_and_no_later_one(tmp_path, kind) -> None:
    path = write_images(tmp_path / "a", range(9)) if kind == "images" else write_video(tmp_path / "v.mp4", 9)
    source = open_source(path)
    frames = iter(source)
    assert [next(frames).index for _ in range(3)] == [0, 1, 2]
    source.stop()
    assert (list(frames), source.problems, list(source.notes)) == ([], [], [])
    if kind == "images":
        source.stop()  # by a consumer, after the end
        assert len(list(source)) == 9
    source = open_source(path)
    source.stop()  # before the first iteration, as by another thread
    assert (list(source), source.problems) == ([], [])


def test_pipes_that_a_glob_names_are_live(tmp_path) -> None:
    os.mkfifo(tmp_path / "b")
    (tmp_path / "a.mp4").write_bytes(b"")
    assert find_inputs(str(tmp_path / "*")) == [tmp_path / "a.mp4", str(tmp_path / "b")]
