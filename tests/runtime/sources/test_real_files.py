"""Files as people have them: damaged, trimmed, anamorphic, with covers and sound, of odd names, beside hidden files.

All are made here, by PyAV and by changing bytes.
"""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdtc.core.errors import VideoError
from sdtc.core.h264 import ColorTags
from sdtc.core.image_file import holds_several
from sdtc.runtime.sources.open import find_inputs, input_name, open_input, open_source
from sdtc.runtime.sources.truncation import missing_bytes
from sdtc.runtime.sources.video_frames import FrameClock

SIZE = (48, 64)


def picture(index: int, size=SIZE) -> np.ndarray:
    """A frame whose brightness tells its number, with some noise, so that every frame has bytes."""
    noise = np.random.default_rng(index).integers(0, 3, (*size, 3), dtype=np.uint8)
    return np.full((*size, 3), 20 + 3 * index, np.uint8) + noise


def number_of(image: np.ndarray) -> int:
    return round((image.mean() - 21) / 3)


def write(path: Path, count=30, codec="libx264", times=None, aspect=None, options=None, sound=0.0, size=SIZE) -> Path:
    """Write a video of `count` pictures.

    Args:
        times: of each picture, seconds; 25 frames/s if not given.
        aspect: sample aspect ratio.
        options: of the codec.
        sound: seconds of silence.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        clock = Fraction(1, 25) if path.suffix == ".avi" else Fraction(1, 1000)  # AVI only counts frames
        stream.codec_context.time_base = clock
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")
            frame.time_base = clock
            frame.pts = round((index / 25 if times is None else times[index]) / clock)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, round(8000 * sound)), np.float32), "fltp", "mono")
            silence.rate = 8000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
    return path


def packets(path: Path) -> list[tuple[int, int]]:
    """Return position and size in the file of every packet of the pictures."""
    with av.open(str(path)) as container:
        return [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]


def damage(path: Path, numbers, fill: str = "zeros") -> Path:
    """Overwrite packets."""
    data = bytearray(path.read_bytes())
    for number in numbers:
        position, size = packets(path)[number]
        data[position : position + size] = bytes(size) if fill == "zeros" else np.random.default_rng(0).bytes(size)
    damaged = path.with_name(f"damaged-{fill}{path.suffix}")
    damaged.write_bytes(data)
    return damaged


def read(path: Path) -> tuple[list, list[str]]:
    with open_source(path) as source:
        frames = list(source)
    return frames, source.problems


# --- damage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", ["zeros", "noise"])
@pytest.mark.parametrize(
    ("suffix", "codec", "options"),
    [
        ("mp4", "libx264", {"g": "10", "bf": "0"}),
        ("mp4", "libx264", {"g": "10", "bf": "2"}),
        ("avi", "mjpeg", {}),
        ("mp4", "mpeg4", {"g": "10"}),
    ],
)
def test_one_bad_packet_is_one_missing_frame(tmp_path, suffix, codec, options, fill) -> None:
    path = damage(write(tmp_path / f"v.{suffix}", 60, codec, options=options), [20], fill)
    frames, problems = read(path)
    assert [frame.index for frame in frames] == list(range(60))
    assert [frame.number for frame in frames] == list(range(60))
    lost = [frame.index for frame in frames if frame.image is None]
    assert len(lost) <= 1  # noise may happen to decode
    if fill == "zeros":
        assert len(lost) == 1
        assert 18 <= lost[0] <= 22  # packets are in the order of decoding
        assert problems == [
            f"1 frame of video '{path}' cannot be decoded and counted as missing, the first is frame {lost[0]} "
            f"({lost[0] / 25:.2f} s)"
        ]
    # From the next keyframe on, every frame has its own number again; compression changes a brightness by less than 3.
    error = [frame.image.mean() - 21 - 3 * frame.index for frame in frames[40:]]
    assert np.abs(error).mean() < 2
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(60) / 25, atol=2e-3)


def test_several_bad_packets(tmp_path) -> None:
    path = damage(write(tmp_path / "v.mp4", 60, options={"g": "1"}), [0, 7, 8, 30, 59])
    frames, problems = read(path)
    assert [frame.index for frame in frames if frame.image is None] == [0, 7, 8, 30, 59]
    assert all(number_of(frame.image) == frame.index for frame in frames if frame.image is not None)
    assert problems[0].startswith("5 frames of video")


def test_a_hole_in_a_matroska_file_is_told(tmp_path) -> None:
    """The packets' frame is damaged too, and the reader finds no packet behind it any more."""
    path = damage(write(tmp_path / "v.mkv", 60, options={"g": "10"}), [20])
    frames, problems = read(path)
    assert len(frames) < 60
    assert problems == [
        f"video '{path}' is cut off after frame {len(frames) - 1} ({frames[-1].time:.2f} s): its header promises "
        "2.40 s; what was decoded is kept"
    ]


def test_nothing_can_be_decoded(tmp_path) -> None:
    path = damage(write(tmp_path / "v.mp4", 10, options={"g": "1"}), range(10))
    frames, problems = read(path)
    assert all(frame.image is None for frame in frames)
    assert problems == [f"no frame of video '{path}' can be decoded: Invalid data found when processing input"]


@pytest.mark.parametrize("between", ["1", "2", "3"])
def test_avi_has_no_time_stamps(tmp_path, between) -> None:
    """FFmpeg numbers H.264's packets in AVI as they come, which is not the order in which they are shown."""
    path = write(tmp_path / "v.avi", 60, options={"bf": between, "g": "20"})
    with open_source(path) as source:
        frames = list(source)
    assert (source.problems, source.notes) == ([], [])
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(60) / 25, atol=2e-3)
    frames, problems = read(damage(path, [25]))
    assert len(frames) == 60
    assert sum(frame.image is None for frame in frames) == 1
    assert problems


def test_packets_that_are_not_even_there(tmp_path) -> None:
    """2,000 bytes of a broadcast are lost: its frames are missing, and later ones keep their numbers."""
    path = write(tmp_path / "v.ts", 75, options={"g": "10", "bf": "0"})
    data = bytearray(path.read_bytes())
    start = packets(path)[45][0] // 188 * 188
    del data[start : start + 188 * 12]
    path.write_bytes(data)
    frames, problems = read(path)
    assert len(frames) == 75
    assert problems[0].endswith("s)")
    error = [
        frame.image.mean() - 21 - 3 * frame.index for frame in frames if frame.image is not None and frame.index > 70
    ]
    assert np.abs(error).mean() < 2


def test_missing_frames_are_told_when_only_some_are_read(tmp_path) -> None:
    path = damage(write(tmp_path / "v.mp4", 60, options={"g": "1"}), [7, 40])
    for count, told in ((5, 0), (20, 1), (50, 2)):
        with open_source(path) as source:
            frames = iter(source)
            for _ in range(count):
                next(frames)
            frames.close()
        assert [problem.split()[0] for problem in source.problems] == ([str(told)] if told else [])


def test_recordings_that_were_joined(tmp_path) -> None:
    """Time stamps begin anew in the middle: no frame is lost there, and time goes on."""
    part = write(tmp_path / "part.ts", 30, options={"bf": "2"}).read_bytes()
    path = tmp_path / "joined.ts"
    path.write_bytes(part * 3)
    frames, problems = read(path)
    assert (len(frames), problems) == (90, [])
    assert all(frame.image is not None for frame in frames)
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(90) / 25, atol=2e-3)


def test_a_recording_that_begins_in_the_middle(tmp_path) -> None:
    """Frame 0 is the first that can be decoded, and a note says so."""
    whole = write(tmp_path / "whole.ts", 60, options={"g": "20", "bf": "0", "sc_threshold": "0"}).read_bytes()
    position, _ = packets(tmp_path / "whole.ts")[5]
    path = tmp_path / "middle.ts"
    path.write_bytes(whole[position // 188 * 188 :])
    with open_source(path) as source:
        frames = list(source)
    assert source.problems == []
    assert len(frames) <= 41
    assert all(frame.image is not None for frame in frames)
    assert any("cannot be decoded, as where a recording begins in the middle" in note for note in source.notes)
    error = [frame.image.mean() - 21 - 3 * (frame.index + 60 - len(frames)) for frame in frames]
    assert np.abs(error).mean() < 2


# --- headers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "ts"])
def test_sound_that_is_longer_than_the_pictures(tmp_path, suffix) -> None:
    frames, problems = read(write(tmp_path / f"v.{suffix}", 30, sound=3.0))
    assert (len(frames), problems) == (30, [])


@pytest.mark.parametrize("claimed", [0, 5, 5000])
def test_frame_counts_in_headers_are_not_believed(tmp_path, claimed) -> None:
    path = write(tmp_path / "v.avi", 30, "mjpeg")
    data = bytearray(path.read_bytes())
    start = data.find(b"strh") + 40
    data[start : start + 4] = struct.pack("<I", claimed)
    start = data.find(b"avih") + 24
    data[start : start + 4] = struct.pack("<I", claimed)
    path.write_bytes(data)
    frames, problems = read(path)
    assert (len(frames), problems) == (30, [])


def test_a_trimmed_clip_whose_hidden_frames_are_still_there(tmp_path) -> None:
    """What `ffmpeg -ss … -c copy` and phones leave: an edit list that begins at the 21st of 30 frames."""
    path = write(tmp_path / "v.mp4", 30, options={"g": "30", "bf": "0"})
    data = bytearray(path.read_bytes())
    elst = data.find(b"elst") + 8  # after version and flags
    with av.open(str(path)) as container:
        base = container.streams.video[0].time_base
    hidden = round(Fraction(20, 25) / base)
    data[elst + 4 : elst + 12] = struct.pack(">ii", 400, hidden)  # 0.4 s of the movie's clock of 1000
    path.write_bytes(data)
    frames, problems = read(path)
    assert (len(frames), problems) == (10, [])
    assert [number_of(frame.image) for frame in frames] == list(range(20, 30))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(10) / 25, atol=2e-3)


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "avi"])
def test_missing_bytes(tmp_path, suffix) -> None:
    path = write(tmp_path / f"v.{suffix}", 40)
    assert missing_bytes(path) == 0
    whole = path.read_bytes()
    for keep in (len(whole) - 1, len(whole) // 2, len(whole) // 10):
        path.write_bytes(whole[:keep])
        assert missing_bytes(path) == len(whole) - keep or (suffix in ("mp4", "mov") and missing_bytes(path) > 0)
    path.write_bytes(whole + b"\0" * 100)  # padding
    assert missing_bytes(path) == 0


@pytest.mark.parametrize(
    "head", [b"", b"RIFF", b"RIFF\xff\xff\xff\xffAVI ", b"\x1a\x45\xdf\xa3", b"\0\0\0\x18ftyp", b"GIF89a"]
)
def test_missing_bytes_of_what_is_hardly_a_file(tmp_path, head) -> None:
    path = tmp_path / "x"
    path.write_bytes(head)
    assert missing_bytes(path) >= 0
    path.write_bytes(head + b"\xff" * 50)
    assert missing_bytes(path) >= 0


# --- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_frames_have_the_times_that_the_video_gives_them(tmp_path, suffix) -> None:
    times = [*np.arange(10) / 10, *(1 + np.arange(20) / 50)]
    frames, problems = read(write(tmp_path / f"v.{suffix}", 30, times=times))
    assert problems == []
    np.testing.assert_allclose([frame.time for frame in frames], times, atol=1.5e-3)


def test_a_clock_always_goes_forward() -> None:
    clock = FrameClock(25.0)
    got = [clock.time(stamp) for stamp in (5.0, 5.04, None, 5.12, 5.12, 3.0, 3.04, 10.0)]
    np.testing.assert_allclose(got, [0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.24, 7.2])
    assert FrameClock(0.001).time(None) == 0


@given(
    st.lists(st.none() | st.floats(-2e28, 2e28) | st.floats(-1, 1), max_size=30), st.sampled_from([0, 1e-9, 25, 1e6])
)
def test_no_time_stamps_make_it_fall(stamps, fps) -> None:
    """Those of damaged files can be anything; of some numbers the sum with an offset is rounded by seconds."""
    clock = FrameClock(fps)
    times = [clock.time(stamp) for stamp in (10.0, 1e15, *stamps)]
    assert times[0] == 0
    assert np.isfinite(times).all()
    assert (np.diff(times) >= 0).all()


def test_images_are_25_a_second(tmp_path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number:06d}.png"), picture(number))
    assert [frame.time for frame in open_source(tmp_path)] == [0, 1 / 25, 2 / 25]


# --- which picture ------------------------------------------------------------------------------------------------


def write_with_cover(path: Path, first: bool, moving: bool = True) -> Path:
    """A video, or only sound, with a cover picture as the first or the second stream."""
    cover = av.CodecContext.create("mjpeg", "w")
    cover.width, cover.height, cover.pix_fmt, cover.time_base = 40, 40, "yuvj420p", Fraction(1, 25)
    red = av.VideoFrame.from_ndarray(np.full((40, 40, 3), (250, 0, 0), np.uint8), format="rgb24").reformat(
        format="yuvj420p"
    )
    red.pts = 0
    (image,) = cover.encode(red)
    source = write(path.with_name("plain.mp4"), 12)
    with av.open(str(source)) as read_from, av.open(str(path), "w") as container:

        def add_cover():
            stream = container.add_stream("mjpeg", rate=1)
            stream.width, stream.height, stream.pix_fmt = 40, 40, "yuvj420p"
            stream.disposition = av.stream.Disposition.attached_pic
            return stream

        attached = add_cover() if first else None
        video = container.add_stream_from_template(read_from.streams.video[0]) if moving else None
        attached = attached or add_cover()
        if not moving:
            audio = container.add_stream("aac", rate=8000, layout="mono")
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
            silence.rate = 8000
            container.mux(audio.encode(silence))
            container.mux(audio.encode())
        image.stream = attached
        container.mux(image)
        for packet in read_from.demux(video=0):
            if packet.dts is not None and video is not None:
                packet.stream = video
                container.mux(packet)
    return path


@pytest.mark.parametrize("first", [True, False])
def test_a_cover_is_not_the_video(tmp_path, first) -> None:
    frames, problems = read(write_with_cover(tmp_path / "v.mp4", first))
    assert (len(frames), problems) == (12, [])
    assert frames[0].image.shape == (*SIZE, 3)


def test_a_song_with_a_cover_is_no_video(tmp_path) -> None:
    path = write_with_cover(tmp_path / "song.mp4", True, moving=False)
    with pytest.raises(VideoError, match=r"song.mp4' has no video that can be read: its only picture is a cover"):
        open_source(path)


def test_a_small_preview_track_is_not_the_video(tmp_path) -> None:
    path = tmp_path / "v.mkv"
    with av.open(str(path), "w") as container:
        streams = []
        for size in ((24, 32), SIZE):
            stream = container.add_stream("libx264", rate=25)
            stream.height, stream.width = size
            stream.pix_fmt = "yuv420p"
            streams.append((stream, size))
        streams[0][0].disposition = 0
        streams[1][0].disposition = av.stream.Disposition.default
        for index in range(10):
            for stream, size in streams:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, size), format="rgb24")))
        for stream, _ in streams:
            container.mux(stream.encode())
    frames, problems = read(path)
    assert ({frame.image.shape for frame in frames}, problems) == ({(*SIZE, 3)}, [])


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_photograph_in_tiles_is_no_video(tmp_path, brand) -> None:
    data = bytearray(write(tmp_path / "v.mp4", 3).read_bytes())
    data[8:12] = brand
    (tmp_path / "IMG_0001.heic").write_bytes(data)
    with pytest.raises(VideoError, match="it is a photograph"):
        open_source(tmp_path / "IMG_0001.heic")


# --- pixels -------------------------------------------------------------------------------------------------------


def test_the_shape_of_pixels(tmp_path) -> None:
    frames, _ = read(write(tmp_path / "pal.mp4", 3, aspect=Fraction(64, 45)))
    assert [frame.pixel_aspect for frame in frames] == [pytest.approx(64 / 45)] * 3
    frames, _ = read(write(tmp_path / "square.mp4", 3))
    assert [frame.pixel_aspect for frame in frames] == [1.0] * 3


def test_the_colours_of_a_video_are_known(tmp_path) -> None:
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        context = stream.codec_context
        context.colorspace, context.color_range, context.color_primaries, context.color_trc = 1, 1, 1, 1
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(stream.encode())
    with open_source(path) as source:
        assert source.colors is None
        list(source)
    assert source.colors == ColorTags(1, 1, 1, 1)


# --- folders and names --------------------------------------------------------------------------------------------


def test_hidden_files_are_no_frames(tmp_path) -> None:
    for number in range(10, 20):
        cv2.imwrite(str(tmp_path / f"{number:06d}.jpg"), picture(number))
        (tmp_path / f"._{number:06d}.jpg").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(4072))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "000099.jpg").mkdir()  # a folder is no image
    with open_source(tmp_path) as source:
        frames = list(source)
    assert [frame.number for frame in frames] == list(range(10, 20))
    assert (source.problems, source.notes) == ([], [])


def test_files_that_are_passed_over_are_told(tmp_path) -> None:
    cv2.imwrite(str(tmp_path / "000000.png"), picture(0))
    for name in ("a.gif", "b.gif", "c.heic", "notes.txt", "d.avif"):
        (tmp_path / name).write_bytes(b"x")
    with open_source(tmp_path) as source:
        frames = list(source)
    assert [frame.name for frame in frames] == ["000000.png", "d.avif"]  # which is broken, and told as a problem
    (note,) = source.notes
    assert note.startswith(f"files of folder '{tmp_path}' passed over, since they are no images that are read: ")
    assert sorted(note.partition("read: ")[2].split(", ")) == ["1 of .heic", "1 of .txt", "2 of .gif"]


def animation(path: Path) -> Path:
    pictures = cv2.Animation()
    pictures.frames = [picture(index) for index in range(3)]
    pictures.durations = np.array([40, 40, 40])
    assert cv2.imwriteanimation(str(path), pictures)
    return path


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_pictures_that_hold_several(tmp_path, suffix) -> None:
    if not hasattr(cv2, "Animation"):
        pytest.skip("this OpenCV writes no animations")
    cv2.imwrite(str(tmp_path / f"one.{suffix}"), picture(0))
    assert not holds_several(tmp_path / f"one.{suffix}")
    assert holds_several(animation(tmp_path / f"several.{suffix}"))


def test_pages_of_a_document_are_told(tmp_path) -> None:
    path = tmp_path / "scan.tiff"
    assert cv2.imwritemulti(str(path), [picture(0), picture(1)])
    with open_source(path) as source:
        assert len(list(source)) == 1
    assert source.notes == [f"'{path}' holds several pictures: only the first is used; convert animations to videos"]
    cv2.imwrite(str(path), picture(0))
    with open_source(path) as source:
        list(source)
    assert source.notes == []


def test_a_single_image_has_its_own_name(tmp_path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"IMG_{number:04d}.jpg"), picture(number))
    for number in range(3):
        entry = find_inputs(str(tmp_path / f"IMG_{number:04d}.jpg"))[0]
        with open_input(entry) as source:
            assert source.name == input_name(entry) == f"IMG_{number:04d}"
            assert source.sequence == tmp_path.name
    (entry,) = find_inputs(str(tmp_path / "*.jpg"))
    with open_input(entry) as source:
        assert source.name == input_name(entry) == source.sequence == tmp_path.name


@pytest.mark.parametrize("name", ["clip.v2.mp4", "photo.jpg", "no suffix"])
def test_names_are_known_before_an_input_is_opened(tmp_path, name) -> None:
    path = tmp_path / name
    if name.endswith("jpg"):
        cv2.imwrite(str(path), picture(0))
    else:
        write(tmp_path / "v.mp4", 3).rename(path)
    with open_input(path) as source:
        assert input_name(path) == source.name


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path) -> None:
    folder = tmp_path / "[2024]" / "what?"
    folder.mkdir(parents=True)
    for name in ("a.mp4", "b.mp4"):
        write(folder / name, 2)
    assert find_inputs(str(folder / "*.mp4")) == [folder / "a.mp4", folder / "b.mp4"]
    (tmp_path / "2").mkdir()
    write(tmp_path / "2" / "c.mp4", 2)
    assert find_inputs(str(tmp_path / "[0-9]" / "*.mp4")) == [tmp_path / "2" / "c.mp4"]


@pytest.mark.skipif(os.name != "posix", reason="only POSIX systems have such names")
def test_a_name_that_is_not_utf_8(tmp_path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.mp4")
    write(tmp_path / "v.mp4", 5).rename(path)
    frames, problems = read(path)
    assert (len(frames), problems) == (5, [])


def test_a_name_that_is_too_long(tmp_path) -> None:
    with pytest.raises(VideoError, match="cannot be read: File name too long"):
        open_source(tmp_path / ("x" * 300))
    with pytest.raises(VideoError, match="no file matches"):
        find_inputs(str(tmp_path / ("x" * 300 + "*.mp4")))
