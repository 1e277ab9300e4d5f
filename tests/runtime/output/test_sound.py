"""The sound of the overlay: beeps of clips are to be heard with their flashes, and damage is not to cost pictures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.output.sound import SoundTrack
from sdtc.runtime.output.writers import VideoWriter
from sdtc.runtime.sources.base import Sound
from sdtc.runtime.sources.video import VideoFile

FLASHES = (0.6, 1.52, 2.4)  # seconds; each is as long as a frame, its beep 60 ms
TOLERANCE = 0.025  # seconds
REGULAR = tuple(index / 25 for index in range(75))


def samples(rate: int, channels: int, start: float, end: float, beeps: Sequence[float] = FLASHES) -> np.ndarray:
    """A tone at every beep, over quiet noise; float32 ``[channels, N]``."""
    times = np.arange(round(start * rate), round(end * rate)) / rate
    on = np.any([(times >= beep) & (times < beep + 0.06) for beep in beeps], axis=0)
    wave = np.where(on, 0.7 * np.sin(2 * np.pi * 1000 * times), 0.001 * np.sin(2 * np.pi * 300 * times))
    return np.tile(wave.astype(np.float32), (channels, 1))


def write_clip(
    path: Path,
    audio: str | None = "aac",
    *,
    rate: int = 48_000,
    layout: str = "stereo",
    times: Sequence[float] = REGULAR,
    begin: float = 0.0,
    end: float = 3.0,
    shift: float = 0.0,
    video: str = "libx264",
    container_format: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """Write flashes with their beeps, the sound from `begin` to `end`, all `shift` later; interleaved by the muxer."""
    with av.open(str(path), "w", format=container_format, options=options or {}) as file:
        pictures = file.add_stream(video, rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = 48, 64, "yuv420p"
        pictures.codec_context.time_base = Fraction(1, 1000) if video == "libx264" else Fraction(1, 25)
        packets = []
        sound = None
        if audio is not None:
            sound = file.add_stream(audio, rate=rate, layout=layout, options={"strict": "experimental"})
            wave = samples(rate, sound.codec_context.channels, begin, end)
            kind = sound.codec_context.format.name if sound.codec_context.format else "fltp"
            base = Fraction(1, rate)
            resampler = av.AudioResampler(kind, layout, rate)
            for start in range(0, wave.shape[1], 1000):
                frame = av.AudioFrame.from_ndarray(wave[:, start : start + 1000].copy(), "fltp", layout)
                frame.sample_rate, frame.time_base = rate, base
                frame.pts = round((begin + shift) * rate) + start
                for piece in resampler.resample(frame):
                    packets += sound.encode(piece)
            packets += sound.encode(None)
        for time in times:
            on = any(abs(time - flash) < 0.02 for flash in FLASHES)
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 220 if on else 30, np.uint8), format="rgb24")
            frame.time_base = pictures.codec_context.time_base
            frame.pts = round((time + shift) / frame.time_base)
            packets += pictures.encode(frame)
        packets += pictures.encode(None)
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            file.mux(packet)
    return path


def overlay(path: Path, max_frames: int | None = None) -> tuple[Path, VideoFile]:
    """Write the pictures of a video as an overlay beside it."""
    target = path.parent / "overlay.mp4"
    with VideoFile(path) as source:
        with VideoWriter(target, source.fps, lambda result: result.image, None, source.sound) as writer:
            for frame in source:
                if frame.index == max_frames:
                    break
                writer.write(FrameResult(frame.index, frame.number, None, frame.index, frame.image, time=frame.time))
        return target, source


def onsets(times: np.ndarray, loud: np.ndarray, pause: float = 0.2) -> list[float]:
    """When it becomes loud after at least a pause, seconds."""
    found = times[loud]
    return [] if not len(found) else [found[0], *found[1:][np.diff(found) > pause]]


def flashes(path: Path) -> list[float]:
    with av.open(str(path)) as file:
        shown = [(frame.time, frame.to_ndarray(format="gray").mean()) for frame in file.decode(video=0)]
    times, values = np.array(shown).T
    return onsets(times, values > 120)


def heard(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Times of samples and their loudness over all channels."""
    times, loud = [], []
    with av.open(str(path)) as file:
        for frame in file.decode(audio=0):
            values = np.abs(frame.to_ndarray().astype(np.float32))
            times.append(frame.time + np.arange(frame.samples) / frame.sample_rate)
            loud.append(values.max(axis=0))
    return np.concatenate(times), np.concatenate(loud)


def beeps(path: Path) -> list[float]:
    times, loud = heard(path)
    return onsets(times, loud > 0.25)


def about_sound(notes: Sequence[str]) -> list[str]:
    return [note for note in notes if "the sound of" in note or "has no sound" in note]


def check_in_step(path: Path, count: int = len(FLASHES)) -> None:
    assert len(flashes(path)) == count
    np.testing.assert_allclose(beeps(path), flashes(path), atol=TOLERANCE)


@pytest.mark.parametrize(
    ("suffix", "audio", "rate", "layout"),
    [
        ("mp4", "aac", 48_000, "stereo"),
        ("mp4", "aac", 44_100, "mono"),
        ("mp4", "aac", 48_000, "5.1"),
        ("mp4", "aac", 22_050, "stereo"),
        ("mp4", "libmp3lame", 44_100, "stereo"),
        ("mp4", "alac", 48_000, "stereo"),
        ("mp4", "ac3", 48_000, "stereo"),
        ("mkv", "aac", 48_000, "stereo"),
        ("mkv", "libopus", 48_000, "stereo"),
        ("webm", "vorbis", 44_100, "stereo"),
        ("mkv", "flac", 96_000, "stereo"),
        ("mkv", "pcm_s16le", 37_800, "5.1"),
        ("mov", "pcm_s16le", 32_000, "mono"),
        ("mov", "pcm_s24le", 44_100, "stereo"),
        ("avi", "pcm_s16le", 11_025, "mono"),
        ("avi", "libmp3lame", 44_100, "stereo"),
        ("ts", "mp2", 48_000, "stereo"),
        ("ts", "aac", 48_000, "stereo"),
    ],
)
def test_a_beep_is_heard_with_its_flash(tmp_path, suffix, audio, rate, layout) -> None:
    video = {"avi": "mpeg4", "webm": "libvpx"}.get(suffix, "libx264")
    path = write_clip(tmp_path / f"clip.{suffix}", audio, rate=rate, layout=layout, video=video)
    target, source = overlay(path)
    assert not source.notes
    check_in_step(target)
    start = 0.04 * (audio == "libmp3lame" and suffix == "avi")  # where the muxer writes an empty picture first
    np.testing.assert_allclose(flashes(target), np.array(FLASHES) + start, atol=1e-3)
    with av.open(str(target)) as file:
        pictures, sound = file.streams.video[0], file.streams.audio[0]
        copied = audio in ("aac", "libmp3lame") and suffix != "ts"
        assert sound.codec_context.name == ("mp3float" if audio == "libmp3lame" else "aac")
        assert sound.codec_context.sample_rate == (rate if copied or rate == 44_100 else 48_000)
        expected = {"5.1": "5.1" if copied else "stereo"}.get(layout, layout)
        assert sound.codec_context.layout.name == expected
        assert pictures.start_time == 0
        assert file.start_time == 0
        assert float(sound.start_time * sound.time_base) == pytest.approx(0, abs=0.06)
        for stream in (pictures, sound):
            assert float(stream.duration * stream.time_base) == pytest.approx(3, abs=0.06)
    data = target.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # index in front


@pytest.mark.parametrize("audio", ["aac", "libopus"])
@pytest.mark.parametrize(
    ("begin", "shift", "skipped"),
    [(0.5, 0, 0), (0, 0, 10), (-0.4, 0.5, 0), (0, 3.7, 0), (0.3, 1.25, 5)],
    ids=["sound later", "sound earlier", "sound before all", "late start", "later, shifted"],
)
def test_sound_and_pictures_that_do_not_begin_together(tmp_path, audio, begin, shift, skipped) -> None:
    path = write_clip(tmp_path / "clip.mkv", audio, begin=begin, shift=shift, times=REGULAR[skipped:])
    target, source = overlay(path)
    assert not source.notes
    check_in_step(target)
    np.testing.assert_allclose(flashes(target), np.array(FLASHES) - skipped / 25, atol=2e-3)
    times, _ = heard(target)
    assert times[0] == pytest.approx(max(0, begin - skipped / 25), abs=0.06)


@pytest.mark.parametrize("audio", ["aac", "pcm_s16le"])
def test_a_variable_frame_rate(tmp_path, audio) -> None:
    times = sorted({*np.cumsum(np.random.default_rng(1).uniform(0.02, 0.1, 45)).round(3), 0.0, *FLASHES})
    target, _ = overlay(write_clip(tmp_path / "clip.mov", audio, times=times))
    np.testing.assert_allclose(flashes(target), FLASHES, atol=0.021)
    check_in_step(target)


@pytest.mark.parametrize("audio", ["aac", "mp2", "libmp3lame"])
@pytest.mark.parametrize("shift", [26 * 3600.0, 2**33 / 90_000 - 2.0], ids=["hour 26", "the clock wraps"])
def test_a_broadcast_at_any_hour(tmp_path, audio, shift) -> None:
    options = {"mpegts_copyts": "1", "muxdelay": "0"}
    target, source = overlay(write_clip(tmp_path / "clip.ts", audio, shift=shift, options=options))
    assert not source.notes
    check_in_step(target)


@pytest.mark.parametrize("shift", [100.0, 0.0], ids=["back", "same"])
@pytest.mark.parametrize("audio", ["aac", "mp2", "libmp3lame"])
def test_joined_recordings(tmp_path, audio, shift) -> None:
    """Two recordings one behind the other, the second with an earlier clock: pictures and sound go on together."""
    options = {"mpegts_copyts": "1", "muxdelay": "0"}
    first = write_clip(tmp_path / "first.ts", audio, shift=shift, options=options)
    second = write_clip(tmp_path / "second.ts", audio, shift=shift and shift - 30, options=options)
    path = tmp_path / "clip.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    target, _ = overlay(path)
    assert len(flashes(target)) == 6
    check_in_step(target, 6)


@pytest.mark.parametrize("audio", ["aac", "mp2"])
@pytest.mark.parametrize(
    ("seconds", "end", "back"), [(10, 1.9, 30), (3, 1.1, 0)], ids=["pictures for 8 s more", "back by little"]
)
def test_joined_recordings_whose_first_has_less_sound_than_pictures(tmp_path, audio, seconds, end, back) -> None:
    """The second's sound waits for its pictures."""
    options = {"mpegts_copyts": "1", "muxdelay": "0"}
    times = [index / 25 for index in range(25 * seconds)]
    first = write_clip(tmp_path / "first.ts", audio, times=times, end=end, shift=100, options=options)
    second = write_clip(tmp_path / "second.ts", audio, shift=100 - back, options=options)
    path = tmp_path / "clip.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    target, source = overlay(path)
    assert not about_sound(source.notes)
    expected = [*(flash for flash in FLASHES if flash < end), *np.add(FLASHES, seconds)]
    np.testing.assert_allclose(flashes(target)[-3:], expected[-3:], atol=2e-3)
    np.testing.assert_allclose(beeps(target), expected, atol=TOLERANCE)


def test_joined_recordings_whose_first_has_no_sound(tmp_path) -> None:
    """The second's begins later in it than the first is long."""
    first = write_clip(tmp_path / "first.ts", "mp2", end=0, times=REGULAR[:30])
    second = write_clip(tmp_path / "second.ts", "mp2", begin=1.35)
    path = tmp_path / "clip.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    target, source = overlay(path)
    assert not about_sound(source.notes)
    np.testing.assert_allclose(flashes(target), [0.6, 1.8, 2.72, 3.6], atol=2e-3)
    np.testing.assert_allclose(beeps(target), [2.72, 3.6], atol=TOLERANCE)


def test_a_pause_between_joined_recordings(tmp_path) -> None:
    """The second recording's clock is 20 s later: the overlay has the pause, and sound behind it."""
    options = {"mpegts_copyts": "1", "muxdelay": "0"}
    first = write_clip(tmp_path / "first.ts", "mp2", shift=10, options=options)
    second = write_clip(tmp_path / "second.ts", "mp2", shift=33, options=options)
    path = tmp_path / "clip.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    target, _ = overlay(path)
    check_in_step(target, 6)


@pytest.mark.parametrize("audio", ["aac", "libopus"])
def test_sound_ends_with_the_last_picture(tmp_path, audio) -> None:
    target, _ = overlay(write_clip(tmp_path / "clip.mkv", audio), max_frames=25)
    times, _ = heard(target)
    assert times[-1] == pytest.approx(1.0, abs=0.03)
    check_in_step(target, 1)


def write_tone(path: Path, audio: str, rate: int) -> Path:
    """10 s of an even tone of 1000 Hz, and a picture every 40 ms; packets of PCM are of a second each."""
    with av.open(str(path), "w") as file:
        pictures = file.add_stream("mpeg4", rate=25)
        pictures.height, pictures.width, pictures.pix_fmt = 48, 64, "yuv420p"
        sound = file.add_stream(audio, rate=rate, layout="mono")
        resampler = av.AudioResampler(sound.codec_context.format, "mono", rate)
        packets = []
        for second in range(10):
            wave = 0.7 * np.sin(2 * np.pi * 1000 * np.arange(second * rate, (second + 1) * rate) / rate)
            frame = av.AudioFrame.from_ndarray(wave.astype(np.float32)[None], "fltp", "mono")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), second * rate
            packets += [packet for piece in resampler.resample(frame) for packet in sound.encode(piece)]
        packets += sound.encode(None)
        for _ in range(250):
            packets += pictures.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24"))
        packets += pictures.encode(None)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    return path


@pytest.mark.parametrize(
    ("audio", "rate"),
    [("aac", 44_100), ("libmp3lame", 44_100), ("flac", 44_100), ("ac3", 32_000), ("pcm_s16le", 11_025)],
)
def test_time_stamps_that_are_rounded_do_not_tear_the_sound(tmp_path, audio, rate) -> None:
    """Matroska has milliseconds: a tone must go on evenly, sample by sample."""
    target, source = overlay(write_tone(tmp_path / "clip.mkv", audio, rate))
    assert not source.notes
    with av.open(str(target)) as file:
        frames = list(file.decode(audio=0))
    rate = frames[0].sample_rate
    wave = np.concatenate([frame.to_ndarray().astype(np.float32)[0] for frame in frames])
    times = frames[0].time + np.arange(len(wave)) / rate
    for frame, start in zip(frames, np.cumsum([0, *(frame.samples for frame in frames)]), strict=False):
        assert frame.time == pytest.approx(times[start], abs=2e-4)
    parts = np.arange(0.1, 9.9, 0.02)
    inside = [(times >= part) & (times < part + 0.02) for part in parts]
    phases = [np.angle((wave[on] * np.exp(-2j * np.pi * 1000 * times[on])).mean()) for on in inside]
    assert np.abs(np.unwrap(phases) - np.median(np.unwrap(phases))).mean() < 0.05


def test_pictures_and_sound_are_interleaved(tmp_path) -> None:
    """At most a second or two of one lies between those of the other, at the same time."""
    target, _ = overlay(write_tone(tmp_path / "clip.mkv", "pcm_s16le", 44_100))
    latest = [0.0, 0.0]
    with av.open(str(target)) as file:
        packets = sorted((packet for packet in file.demux() if packet.size), key=lambda packet: packet.pos)
    for packet in packets:
        latest[packet.stream_index] = float(packet.dts * packet.time_base)
        assert abs(latest[0] - latest[1]) < 1.5


def test_long_packets_end_with_the_last_picture(tmp_path) -> None:
    target, _ = overlay(write_tone(tmp_path / "clip.mkv", "pcm_s16le", 44_100), max_frames=55)
    times, _ = heard(target)
    assert times[-1] == pytest.approx(2.2, abs=0.025)


def write_frames(target: Path, times: Sequence[float], sound: Sound) -> None:
    with VideoWriter(target, 25, lambda result: result.image, None, sound) as writer:
        for index, time in enumerate(times):
            on = any(abs(time - flash) < 0.02 for flash in FLASHES)
            image = np.full((48, 64, 3), 220 if on else 30, np.uint8)
            writer.write(FrameResult(index, index, None, index, image, time=time))


@pytest.mark.parametrize("audio", ["aac", "libopus"])
def test_pictures_that_fall_behind(tmp_path, audio) -> None:
    """A repeated time stamp delays the pictures from there on: so it does the sound."""
    path = write_clip(tmp_path / "clip.mkv", audio)
    sound = Sound(path, 1, [(0.0, 0.0), (1.0, 0.12), (2.0, 0.24)], [])
    write_frames(tmp_path / "overlay.mp4", REGULAR, sound)
    assert not sound.notes
    np.testing.assert_allclose(beeps(tmp_path / "overlay.mp4"), np.add(FLASHES, [0, 0.12, 0.24]), atol=TOLERANCE)


def test_a_clock_that_goes_back_for_the_sound_only(tmp_path) -> None:
    options = {"mpegts_copyts": "1", "muxdelay": "0"}
    first = write_clip(tmp_path / "first.ts", "mp2", shift=100, options=options)
    second = write_clip(tmp_path / "second.ts", "mp2", shift=70, options=options)
    path = tmp_path / "clip.ts"
    path.write_bytes(first.read_bytes() + second.read_bytes())
    sound = Sound(path, 1, [(0.0, -100.0)], [])
    write_frames(tmp_path / "overlay.mp4", [index / 25 for index in range(300)], sound)
    np.testing.assert_allclose(beeps(tmp_path / "overlay.mp4"), FLASHES, atol=TOLERANCE)
    (note,) = sound.notes
    assert "has no sound from 2.99 s on" in note
    assert "its time stamps go back there" in note


def test_a_pause_longer_than_mp4_can_hold(tmp_path) -> None:
    sound = Sound(write_clip(tmp_path / "clip.mp4"), 1, [(0.0, 0.0)], [])
    write_frames(tmp_path / "overlay.mp4", [*REGULAR[:50], 9000.0, 9000.04], sound)
    np.testing.assert_allclose(beeps(tmp_path / "overlay.mp4"), FLASHES[:2], atol=TOLERANCE)
    (note,) = sound.notes
    assert "the pictures pause for longer than MP4 can hold" in note


def test_sound_that_ends_before_the_pictures(tmp_path) -> None:
    target, source = overlay(write_clip(tmp_path / "clip.mkv", "libopus", end=1.7))
    assert not source.notes
    assert len(flashes(target)) == 3
    np.testing.assert_allclose(beeps(target), FLASHES[:2], atol=TOLERANCE)


class CountedFile:
    """A file that counts the bytes that are read from it."""

    def __init__(self, path: Path) -> None:
        self._file, self.count = path.open("rb"), 0
        self.seek, self.tell, self.close = self._file.seek, self._file.tell, self._file.close

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.count += len(data)
        return data


@pytest.mark.skipif(not hasattr(av.stream, "Discard"), reason="this PyAV cannot discard streams")
@pytest.mark.parametrize("suffix", ["mp4", "mov"])
def test_sound_that_ends_early_is_found_without_reading_all_pictures(tmp_path, monkeypatch, suffix) -> None:
    """A second of sound, and 10 MB of pictures behind it."""
    path = tmp_path / f"clip.{suffix}"
    with av.open(str(path), "w") as file:
        pictures, audio = file.add_stream("mpeg4", rate=25), file.add_stream("pcm_s16le" if suffix == "mov" else "aac")
        pictures.height, pictures.width, pictures.pix_fmt = 48, 64, "yuv420p"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 96_000), np.int16), "s16", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
        packets = [*audio.encode(frame), *audio.encode(None)]
        file.start_encoding()
        for index in range(100):
            packet = av.Packet(bytes(100_000))
            packet.stream, packet.time_base, packet.pts, packet.dts = pictures, Fraction(1, 25), index, index
            packets.append(packet)
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    counted = CountedFile(path)
    monkeypatch.setattr("sdtc.runtime.output.sound.open_container", lambda path: av.open(counted))
    sound = Sound(path, 1, [(0.0, 0.0)], [])
    track = SoundTrack(sound)
    with av.open(str(tmp_path / "overlay.mp4"), "w") as file:
        track.join(file)
        opened = counted.count
        assert track.packets(0.5)
        assert track.packets(4.0)
        assert not track.finish() or suffix == "mov"
        track.close()
    counted.close()
    assert not sound.notes
    assert counted.count - opened < 1_000_000


def test_a_video_without_sound(tmp_path) -> None:
    target, source = overlay(write_clip(tmp_path / "clip.mp4", None))
    assert source.sound is None
    with av.open(str(target)) as file:
        assert not file.streams.audio


def test_a_name_in_another_encoding(tmp_path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    write_clip(tmp_path / "clip.mp4").rename(path)
    target, _ = overlay(path)
    check_in_step(target)


def test_sound_in_no_known_codec_is_left_out(tmp_path) -> None:
    path = write_clip(tmp_path / "clip.mov", "pcm_s16le")
    data = path.read_bytes()
    assert data.count(b"sowt") == 1
    path.write_bytes(data.replace(b"sowt", b"zzzz"))
    target, source = overlay(path)
    assert len(flashes(target)) == 3
    assert len(source.notes) == 1
    assert "has no sound: " in source.notes[0]


@pytest.mark.parametrize("audio", ["aac", "libopus", "mp2"])
@pytest.mark.parametrize("suffix", ["mkv", "ts"])
def test_damaged_sound_never_costs_a_picture(tmp_path, suffix, audio) -> None:
    """Noise over a third of the file, in several ways: as many pictures as without the sound."""
    whole = write_clip(tmp_path / f"whole.{suffix}", audio).read_bytes()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        data = bytearray(whole)
        for place in rng.integers(len(data) // 5, len(data), 40):
            data[place] = rng.integers(256)
        path = tmp_path / f"clip.{suffix}"
        path.write_bytes(data)
        with VideoFile(path) as source:
            count = sum(1 for frame in source)
        target, source = overlay(path)
        with av.open(str(target)) as file:
            assert sum(1 for _ in file.decode(video=0)) == count
        assert len(about_sound(source.notes)) <= 1


def test_a_stream_of_sound_that_cannot_be_decoded(tmp_path) -> None:
    path = write_clip(tmp_path / "clip.mkv", "flac")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(audio=0) if packet.size]
    for place, size in places:
        data[place + 8 : place + size] = bytes([255]) * (size - 8)
    path.write_bytes(data)
    target, source = overlay(path)
    assert len(flashes(target)) == 3
    assert len(about_sound(source.notes)) == 1


def test_a_source_that_is_gone_when_the_overlay_begins(tmp_path) -> None:
    path = write_clip(tmp_path / "clip.mp4")
    target = tmp_path / "overlay.mp4"
    with VideoFile(path) as source:
        path.rename(tmp_path / "away.mp4")
        with VideoWriter(target, source.fps, lambda result: result.image, None, source.sound) as writer:
            for frame in source:
                writer.write(FrameResult(frame.index, frame.number, None, frame.index, frame.image, time=frame.time))
    assert len(flashes(target)) == 3
    assert "has no sound: No such file" in source.notes[0]
