from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from sdtc.core.h264 import H264Writer


def pictures(count: int) -> list[np.ndarray]:
    """Smooth grey ramps, each a little brighter, which H.264 keeps almost as they are."""
    ramp = np.linspace(40, 120, 64, dtype=np.uint8)
    return [np.broadcast_to((ramp + 5 * i)[None, :, None], (48, 64, 3)).copy() for i in range(count)]


@pytest.mark.parametrize(("crf", "preset"), [(18, "medium"), (23, "veryfast")])
def test_every_frame_comes_back_from_a_file_that_browsers_play(tmp_path, crf, preset) -> None:
    path = tmp_path / "with:colon.part"
    with H264Writer(path, 29.97, (48, 64), crf=crf, preset=preset) as video:
        for image in pictures(12):
            video.write(image)
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # index in front
    assert f"crf={crf}.0".encode() in data  # libx264 writes its settings into the stream
    assert (b"subme=2 " in data) == (preset == "veryfast")  # medium: subme=7
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (stream.average_rate, stream.width, stream.height) == (Fraction(2997, 100), 64, 48)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 12
    for image, written in zip(decoded, pictures(12), strict=True):
        assert np.abs(image.astype(int) - written).mean() < 3  # frames differ by 5


def test_an_error_abandons_the_frames_that_wait_in_the_encoder_and_closes_the_file(tmp_path) -> None:
    path = tmp_path / "v.mp4"
    with pytest.raises(KeyboardInterrupt), H264Writer(path, 25, (48, 64), crf=18) as video:
        for image in pictures(25) * 4:  # more than the encoder holds back, so that the file begins
            video.write(image)
        raise KeyboardInterrupt
    with av.open(str(path)) as container:  # closed: it has its index
        assert 0 < len(list(container.decode(video=0))) < 100


def test_odd_sides_are_an_error(tmp_path) -> None:
    with pytest.raises(av.FFmpegError), H264Writer(tmp_path / "v.mp4", 25, (47, 64), crf=18) as video:
        video.write(np.zeros((47, 64, 3), np.uint8))


class Broken:
    """Sound whose packets go back in time."""

    def __init__(self) -> None:
        self.why = ""
        self.closed = False

    def join(self, file: av.container.OutputContainer) -> None:
        self.stream = file.add_stream("aac", rate=48_000, layout="mono")

    def packets(self, until: float) -> list[av.Packet]:
        packet = av.Packet(bytes(50))
        packet.stream, packet.time_base = self.stream, Fraction(1, 1000)
        packet.pts = packet.dts = 500 - round(1000 * until)
        return [] if self.why else [packet]

    def finish(self) -> list[av.Packet]:
        return []

    def leave_out(self, why: str) -> None:
        self.why = why

    def close(self) -> None:
        self.closed = True


def test_sound_that_mp4_does_not_take_costs_no_picture(tmp_path) -> None:
    sound = Broken()
    with H264Writer(tmp_path / "v.mp4", 25, (48, 64), crf=18, sound=sound) as video:
        for index in range(10):
            video.write(np.zeros((48, 64, 3), np.uint8), index / 25)
    assert sound.why
    assert sound.closed
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 10


class Recorded(Broken):
    """No sound, but what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = [0.0]

    def packets(self, until: float) -> list[av.Packet]:
        self.asked.append(until)
        return []


def test_sound_is_asked_for_in_small_steps(tmp_path) -> None:
    """However long the pictures pause: what is returned at a time is in memory."""
    sound = Recorded()
    with H264Writer(tmp_path / "v.mp4", 0.2, (48, 64), crf=18, sound=sound) as video:
        for time in (0.0, 0.3, 3600.0, 3600.5):
            video.write(np.zeros((48, 64, 3), np.uint8), time)
            assert sound.asked[-1] == pytest.approx(time)
    assert sound.asked[-1] == pytest.approx(3605.5)
    steps = np.diff(sound.asked)
    assert steps.min() > 0
    assert steps.max() < 1.0001
