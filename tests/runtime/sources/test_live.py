"""Live sources, against senders on this machine: pipes, and TCP and RTSP servers of a few lines; no camera."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import pytest

import sdtc.runtime
from sdtc.core.errors import InputError, VideoError
from sdtc.runtime.cli import main
from sdtc.runtime.options import EngineOptions, TrackOptions
from sdtc.runtime.sources import live
from sdtc.runtime.sources.base import GAP, Frame, FrameSource
from sdtc.runtime.sources.handover import Handover
from sdtc.runtime.sources.live import LiveSource, is_live
from sdtc.runtime.sources.open import find_inputs
from tests.runtime.senders import fifo, packets, server, stream

ORT = "onnxruntime"  # what else there is would be measured first
BOX = [{"image_id": index, "bbox": [8, 4, 30, 40], "score": 1} for index in range(500)]


def seen(frames) -> list[int]:
    """The numbers that frames show."""
    return [round((frame.image.mean() - 1) / 4) for frame in frames if frame is not GAP]


def lines(caplog) -> str:
    return "\n".join(record.getMessage() for record in caplog.records if record.name == "sdtc.live")


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "sdtc.live")
    return caplog


@pytest.fixture
def waits(monkeypatch) -> list[bool]:
    """What every wait for a frame came to: True, or False where its time ran out."""
    results = []
    wait = Handover.wait

    def recorded(self, timeout=None):
        results.append(wait(self, timeout))
        return results[-1]

    monkeypatch.setattr(Handover, "wait", recorded)
    return results


def record_joins(thread: threading.Thread, monkeypatch) -> list[float | None]:
    """For how long a thread is waited for, each time."""
    limits: list[float | None] = []
    join = thread.join

    def recorded(timeout=None) -> None:
        limits.append(timeout)
        join(timeout)

    monkeypatch.setattr(thread, "join", recorded)
    return limits


def live_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sdtc-")]


# --- what is live ------------------------------------------------------------------------------------------------


def test_what_is_live(tmp_path, monkeypatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for spec in ("0", "12", "-", "/dev/video99", "rtsp://host/x?a=*", "tcp://127.0.0.1:1", str(tmp_path / "pipe")):
        assert is_live(spec), spec
        assert find_inputs(spec) == [spec]
    (tmp_path / "0").mkdir()
    monkeypatch.chdir(tmp_path)
    for spec in ("0", "video.mp4", "c:/video.mp4", "clips/*.mp4", str(tmp_path)):  # a folder 0 was always a folder
        assert not is_live(spec), spec


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        ("93", {}, "there is no /dev/video93; cameras of this machine: "),
        ("rtsp://127.0.0.1:9/x", {}, "Connection refused"),
        ("gopher://127.0.0.1:9/x", {}, "'gopher' addresses are not supported for `source`: expected one of rtsp, "),
        ("file:///etc/passwd", {}, "'file' addresses are not supported"),
        ("tcp://127.0.0.1:9", {"reconnect": -1.0}, "`reconnect` is -1.0: expected seconds"),
        ("tcp://127.0.0.1:9", {"reconnect": float("nan")}, "`reconnect` is nan: expected seconds"),
    ],
)
def test_what_cannot_be_opened_is_said_at_once(waits, spec, options, sentence) -> None:
    with pytest.raises(InputError) as error:
        LiveSource(spec, **options)
    assert sentence in str(error.value)
    assert waits in ([], [True])  # one try, and no time-out


def test_passwords_are_never_shown(log, tmp_path) -> None:
    with pytest.raises(VideoError) as error:
        LiveSource("rtsp://admin:secret@127.0.0.1:9/stream?token=secret")
    assert "rtsp://127.0.0.1:9/stream'" in str(error.value)
    assert "secret" not in str(error.value)
    with server([stream(2)]) as address, LiveSource(address.replace("//", "//me:secret@"), reconnect=0.1) as source:
        assert len(list(source)) > 1
    assert "secret" not in lines(log) + source.name + "".join(source.problems)


# --- pipes -------------------------------------------------------------------------------------------------------


def test_a_pipe_loses_nothing_whatever_its_pace(tmp_path) -> None:
    data = stream(30)
    third = len(data) // 3
    with fifo(tmp_path / "cam", data[:third], 0.1, data[third:]) as path, LiveSource(path) as source:
        frames = []
        for frame in source:
            time.sleep(0.01)
            frames.append(frame)
    assert (source.name, source.fps, source.num_frames, source.problems) == ("cam", 10, None, [])
    assert frames[-1] is GAP  # at the end, too
    assert seen(frames) == list(range(30))
    assert [(frame.index, frame.number) for frame in frames[:-1]] == [(n, n) for n in range(30)]
    assert all(0 < a.received < b.received for a, b in pairwise(frames[:-1]))


@pytest.mark.parametrize("container", ["mpegts", "matroska", "flv", "mp4"])
def test_a_pipe_that_ends_early_keeps_what_came(tmp_path, container) -> None:
    data = stream(30, container=container)
    for name, part, whole in (("whole", data, True), ("cut", data[: int(0.71 * len(data)) // 2 * 2 + 1], False)):
        with fifo(tmp_path / name, part) as path, LiveSource(path) as source:
            numbers = seen(source)
        assert numbers == list(range(len(numbers)))
        if whole:
            assert (len(numbers), source.problems) == (30, [])
        else:
            assert 18 <= len(numbers) <= 22
            assert len(source.problems) == 1
            assert f"cut' ends after {len(numbers)} frames: " in source.problems[0]


@pytest.mark.parametrize("spoilt", [0, 13])
def test_what_cannot_be_decoded_is_left_out(tmp_path, spoilt) -> None:
    """At the beginning that is no damage: whoever comes late to a stream sees nothing before the next keyframe."""
    data = stream(40, spoilt=range(spoilt, spoilt + 5))
    with fifo(tmp_path / "pipe", data) as path, LiveSource(path) as source:
        numbers = seen(source)
    assert numbers[-20:] == list(range(20, 40))
    assert not set(range(spoilt, spoilt + 5)) & set(numbers)
    assert len(source.problems) == (spoilt > 0)
    assert all("packets that cannot be decoded: " in problem for problem in source.problems)


def test_a_stalled_pipe_is_waited_for(tmp_path, log) -> None:
    data = stream(20)
    pieces = data[: len(data) // 2], 0.6, data[len(data) // 2 :]
    with fifo(tmp_path / "pipe", *pieces) as path, LiveSource(path, stall=0.2) as source:
        assert seen(source) == list(range(20))
    assert source.problems == []
    assert lines(log).count("no frame for 0.2 s") == 1
    assert lines(log).count("continues after 0.") == 1


def test_a_pipe_of_something_else(tmp_path, monkeypatch) -> None:
    secret = tmp_path / "secret.ts"
    secret.write_bytes(stream(20))
    monkeypatch.chdir(tmp_path)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{secret}\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"
    others = {
        "text": b"hello\n" * 9999,
        "nothing": b"",
        "hls": playlist.encode(),
        "concat": f"ffconcat version 1.0\nfile {secret}\n".encode(),
        "here": b"ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, data in others.items():
        with (
            fifo(tmp_path / name, data) as path,
            pytest.raises(VideoError, match=f"pipe '.*{name}' gives no video: "),
        ):
            LiveSource(path)
    assert not live_threads()


def test_a_clock_that_goes_back_and_jumps(tmp_path, log) -> None:
    shifts = {0: 5000, 10: 4700, 20: 4600, 30: 90_000}  # tenths of a second, from these frames on
    data = [stream(10, start=start, clock=lambda pts, shift=shift: pts + shift) for start, shift in shifts.items()]
    with fifo(tmp_path / "back", *data) as path, LiveSource(path) as source:
        frames = [frame for frame in source if frame is not GAP]
    assert seen(frames) == list(range(40))
    assert (np.diff([frame.time for frame in frames]) >= 0).all()
    assert source.problems == []
    assert lines(log).count("its clock jumps back by 29.90 s; ") == 1
    assert "ahead" not in lines(log)  # one line is enough
    with fifo(tmp_path / "ahead", data[0], data[3]) as path, LiveSource(path) as source:
        assert seen(source) == [*range(10), *range(30, 40)]
    assert lines(log).count("its clock jumps ahead by 8502.10 s; ") == 1


@pytest.mark.parametrize("drop_late", [False, True])
def test_a_resolution_that_changes(tmp_path, log, drop_late) -> None:
    small, large = stream(20), stream(20, (96, 128), start=20)
    with fifo(tmp_path / "pipe", small, large) as path, LiveSource(path, drop_late) as source:
        frames = [frame for frame in source if frame is not GAP]
    assert {frame.image.shape for frame in frames} <= {(48, 64, 3), (96, 128, 3)}
    for number, frame in zip(seen(frames), frames, strict=True):
        assert frame.image.shape == ((48, 64, 3) if number < 20 else (96, 128, 3))
    if not drop_late:
        assert seen(frames) == list(range(40))
        assert lines(log).count("its frame size changes from 64x48 to 128x96") == 1


def test_what_happens_all_the_time_is_told_now_and_then(tmp_path, log, monkeypatch) -> None:
    """Pictures that change their size with every keyframe."""
    pieces = [stream(1, (96, 128) if number % 2 else (48, 64), start=number) for number in range(30)]
    with fifo(tmp_path / "pipe", *pieces) as path, LiveSource(path) as source:
        assert len(seen(source)) == 30
    assert lines(log).count("its frame size changes") == 1
    monkeypatch.setattr("sdtc.runtime.sources.live.time.monotonic", lambda now=time.monotonic: now() + 5)
    source._check_size((1, 1, 3))
    assert "to 1x1 (and 28 times before, not logged)" in lines(log)


# --- network -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_stream_that_hangs_up_is_connected_anew(log) -> None:
    """The second connection, for its part, has another resolution; the third does not come."""
    pieces = [stream(12)], [stream(15, (96, 128), start=20)]
    with server(*pieces) as address, LiveSource(address, reconnect=1.2) as source:
        frames = list(source)
    assert seen(frames) == [*range(12), *range(20, 35)]
    assert [index for index, frame in enumerate(frames) if frame is GAP] == [12, 28]
    real = [frame for frame in frames if frame is not GAP]
    assert [frame.index for frame in real] == [frame.number for frame in real] == list(range(27))
    text = lines(log)
    for event in ("the sender ended the stream; reconnecting for up to 1.2 s", "is back after", "64x48 to 128x96",
                  "not back yet: Connection refused; next try in 1 s"):  # fmt: skip
        assert event in text, text
    assert len(source.problems) == 1
    assert (
        "ends after 27 frames: the sender ended the stream, and it did not come back within 1.2 s" in source.problems[0]
    )


@pytest.mark.slow
def test_a_stream_that_stalls_is_connected_anew(log, waits, monkeypatch) -> None:
    monkeypatch.setattr(live, "STALL", 60.0)  # FFmpeg's own time-out, which nobody waits for
    with server([stream(12), 60.0], [stream(15, start=20), 60.0]) as address:
        with LiveSource(address, stall=0.4) as source:
            lost = source._reader.thread
            limits = record_joins(lost, monkeypatch)
            frames = list(islice(source, 20))
        assert lost.is_alive()  # it still waits in FFmpeg
        assert limits == [0.2]  # for a camera that lets go at once
    assert waits.count(False) == 1  # the stall
    assert "not back yet" not in lines(log)  # the first try has worked
    numbers = seen(frames)
    first = numbers.index(20)
    assert numbers == [*range(first), *range(20, 20 + 19 - first)]
    assert first >= 10  # FFmpeg lets go of a frame of MPEG-TS when it sees the one after the next
    assert frames.index(GAP) == first
    assert frames.count(GAP) == 1
    assert "no frame for 0.4 s; reconnecting for up to 30 s" in lines(log)
    assert "is back after" in lines(log)


@pytest.mark.slow
def test_never_connecting_anew() -> None:
    with server([stream(12)]) as address, LiveSource(address, reconnect=0) as source:
        assert seen(source) == list(range(12))
    assert source.problems == []  # it ended, and nobody said that it must not
    with server([stream(12), 30.0]) as address, LiveSource(address, reconnect=0, stall=0.3) as source:
        assert len(seen(source)) >= 10
    assert "no frame for 0.3 s" in source.problems[0]


@pytest.mark.slow
def test_a_recording_is_not_begun_again(log) -> None:
    data = stream(40, container="matroska")
    with server([data], [data]) as address, LiveSource(address) as source:
        assert seen(source) == list(range(40))
        assert source.problems == []
    with server([data[: len(data) // 2]], [data]) as address, LiveSource(address) as source:
        assert 0 < len(seen(source)) < 30
    assert "its header promises 4.00 s" in source.problems[0]
    with server([data[: len(data) // 2], 30.0], [data]) as address, LiveSource(address, stall=0.3) as source:
        assert 0 < len(seen(source)) < 30
    assert "no frame for 0.3 s" in source.problems[0]
    assert lines(log) == ""


def test_http(tmp_path, log) -> None:
    """A recording, a playlist, and one that asks for a file of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "web"))

        def log_message(self, *arguments) -> None:
            pass

    (tmp_path / "web").mkdir()
    (tmp_path / "secret.ts").write_bytes(stream(20))
    (tmp_path / "web" / "video.mkv").write_bytes(stream(20, container="matroska"))
    (tmp_path / "web" / "part.ts").write_bytes(stream(20))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    for name, part in (
        ("good", "part.ts"),
        ("file", f"file://{tmp_path}/secret.ts"),
        ("path", f"{tmp_path}/secret.ts"),
    ):
        (tmp_path / "web" / f"{name}.m3u8").write_text(playlist.format(part))
    session = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45998 RTP/AVP 33\n"
    (tmp_path / "web" / "any.sdp").write_text(session)
    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{httpd.server_address[1]}"
        for name in ("video.mkv", "good.m3u8"):
            with LiveSource(f"{address}/{name}") as source:
                assert seen(source) == list(range(20))
            assert source.problems == []
        for name in ("file.m3u8", "path.m3u8", "any.sdp", "missing.mkv"):
            with pytest.raises(VideoError, match="gives no video") as error:
                LiveSource(f"{address}/{name}")
            # nobody waits at the port of the session description
            assert not re.search("does not answer|nothing came", str(error.value))
        httpd.shutdown()
    assert lines(log) == ""


@pytest.mark.slow
def test_the_newest_frame_wins() -> None:
    """A consumer for whom every frame takes the time of six: what it gets is the newest there is."""
    data = stream(60)
    pieces: list[bytes | float] = [data[: len(data) // 5]]
    step = len(data) // 60 // 188 * 188
    for start in range(len(pieces[0]), len(data), step):
        pieces += [0.02, data[start : start + step]]
    frames = []
    with server(pieces) as address, LiveSource(address, drop_late=True, reconnect=0) as source:
        reader, arrived = source._reader, 0
        for frame in source:
            if frame is not GAP:
                assert frame.number >= arrived - 2  # the last of them may be on its way
                frames.append(frame)
                arrived = wait_for_frames(reader, frame.number + 7)
    numbers = seen(frames)
    assert len(numbers) < 30
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 59  # the last one is nobody's late
    assert [frame.index for frame in frames] == list(range(len(frames)))  # neighbours, to windows and the tracker
    assert [frame.number for frame in frames] == numbers  # and what was dropped shows
    assert source.dropped == 60 - len(frames)


def wait_for_frames(reader: live._Reader, count: int) -> int:
    """Wait until so many frames have arrived, or the last one; return how many have."""
    while reader.count < count and reader.thread.is_alive():
        time.sleep(0.002)
    return reader.count


@pytest.mark.slow
def test_rtsp(log) -> None:
    """H.264 in RTP, interleaved with RTSP's own connection, as cameras send it."""
    with rtsp_server(30, 40) as address, LiveSource(address, reconnect=0.6) as source:
        frames = [frame for frame in source if frame is not GAP]
    assert seen(frames)[:30] == list(range(30))
    assert seen(frames)[30:] == list(range(40))  # after the server has hung up
    assert "is back after" in lines(log)
    assert source.name == address.removeprefix("rtsp://").replace(".", "_").replace(":", "_").replace("/", "_")


@contextmanager
def rtsp_server(*connections: int):
    """A camera, as far as FFmpeg looks: sends so many frames in each connection, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    sdp = (
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
        "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
    )
    answers = {
        "OPTIONS": "Public: OPTIONS, DESCRIBE, SETUP, PLAY\r\n\r\n",
        "DESCRIBE": f"Content-Type: application/sdp\r\nContent-Length: {len(sdp)}\r\n\r\n{sdp}",
        "SETUP": "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n\r\n",
        "PLAY": "Session: 1\r\n\r\n",
    }

    def serve() -> None:
        for frames in connections:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as requests:
                method = ""
                while method != "PLAY":
                    head = []
                    while line := requests.readline().decode().strip():
                        head.append(line)
                    method = head[0].split()[0]
                    sequence = next(line for line in head if line.startswith("CSeq"))
                    connection.sendall(f"RTSP/1.0 200 OK\r\n{sequence}\r\n{answers[method]}".encode())
                number = 0
                for packet in packets(frames):
                    nals = [nal.strip(b"\0") for nal in bytes(packet).split(b"\0\0\1") if nal.strip(b"\0")]
                    for nal, last in zip(nals, [False] * (len(nals) - 1) + [True], strict=True):
                        pieces = [nal]
                        if len(nal) > 1000:  # fragments
                            parts = [nal[1:][i : i + 1000] for i in range(0, len(nal) - 1, 1000)]
                            marks = [0x80, *[0] * (len(parts) - 2), 0x40]
                            kind = nal[0] & 31
                            pieces = [
                                bytes([nal[0] & 0xE0 | 28, mark | kind]) + part
                                for mark, part in zip(marks, parts, strict=True)
                            ]
                        for piece in pieces:
                            marker = 0x80 if last and piece is pieces[-1] else 0
                            clock = 9000 * packet.pts
                            header = bytes([0x80, marker | 96]) + number.to_bytes(2, "big") + clock.to_bytes(4, "big")
                            rtp = header + bytes(4) + piece
                            connection.sendall(b"$\0" + len(rtp).to_bytes(2, "big") + rtp)
                            number += 1
        listener.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield f"rtsp://127.0.0.1:{port}/live"
    thread.join(5)
    assert not thread.is_alive()


# --- ending ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pipe", "tcp", "away"])
@pytest.mark.parametrize("drop_late", [False, True])
def test_stopping_while_nothing_comes(tmp_path, waits, log, monkeypatch, kind, drop_late) -> None:
    """Blocked in a pipe, in FFmpeg, or between two tries to connect."""
    monkeypatch.setattr(live, "STALL", 60.0)  # FFmpeg's own time-out
    pieces = [stream(12)] if kind == "away" else [stream(12), 60.0]
    with fifo(tmp_path / "pipe", *pieces) if kind == "pipe" else server(pieces) as address:
        source = LiveSource(address, drop_late)
        stopped = threading.Event()

        def stop() -> None:
            stopped.set()
            source.stop()

        threading.Timer(0.8, stop).start()
        frames = list(source)
        assert stopped.is_set()  # until then it has waited
        limits = record_joins(source._reader.thread, monkeypatch)
        source.close()
        assert limits == [0.5]
        assert all(waits)  # woken, not timed out
        assert frames.count(GAP) == (kind == "away")
        assert source._reader.thread.is_alive() == (kind == "tcp")  # closing does not wait for FFmpeg
        assert kind == "tcp" or not live_threads()
        assert drop_late or seen(frames)[:10] == list(range(10))
    assert source.problems == []


def test_a_tracker_that_is_closed_while_nothing_comes(tiny_bundle, tmp_path, waits) -> None:
    bundle = tiny_bundle / "model.onnx"
    with (
        fifo(tmp_path / "pipe", stream(12), 60.0) as path,
        sdtc.runtime.open(bundle, EngineOptions(backend=ORT)) as engine,
    ):
        results = engine.track(path)
        for _ in range(8):  # all that can be answered: FFmpeg holds two frames back, and two are looked ahead at
            next(results)
        time.sleep(0.1)
        results.close()
        assert all(waits)  # woken, not timed out
        assert not live_threads()  # although the pipe is still open


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_nothing_comes(tiny_bundle, tmp_path, how) -> None:
    command = [sys.executable, "-m", "sdtc.runtime.cli", "--engine", tiny_bundle / "model.onnx", "--input", "-",
               "--output", tmp_path, "--format", "jsonl", "--backend", ORT]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(stream(12))
    process.stdin.flush()
    results = tmp_path / "stdin.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (results.exists() and results.read_text().count("\n") >= 8):
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(how)
    try:
        process.wait(timeout=30)  # with standard input still open
    finally:
        stdout, stderr = process.communicate()
    assert process.returncode == 130, stderr
    assert b"no frame for" not in stderr  # it did not go on until the stall
    assert b"interrupted after" in stderr
    assert b"latency  p50 " in stdout
    frames = [json.loads(line)["frame"] for line in results.read_text().splitlines()]
    assert frames == list(range(len(frames)))


# --- the command -------------------------------------------------------------------------------------------------


def infer(bundle: Path, source: object, output: Path, *options: object) -> int:
    command = ["--engine", bundle / "model.onnx", "--backend", ORT, "--input", source, "--output", output, *options]
    return main([*map(str, command), "--format", "jsonl"])


@pytest.mark.slow
def test_the_command_on_a_stream_that_comes_back(tiny_bundle, tmp_path, capsys) -> None:
    """Nobody in it: also where there is nothing to see there is a line for every frame, and an overlay."""
    with server([stream(12)], [stream(15, (96, 128))]) as address:
        code = infer(tiny_bundle, address, tmp_path, "--reconnect", "1", "--save-video", "--max-frames", "20")
    out, err = capsys.readouterr()
    assert code == 0, err
    (results,) = tmp_path.glob("*.jsonl")
    assert [json.loads(line)["frame"] for line in results.read_text().splitlines()] == list(range(20))
    assert err.count("reconnecting for up to 1 s") == 1
    assert err.count("changes from 64x48 to 128x96") == 1
    assert "latency  p50 " in out
    assert "(of which look-ahead 2 frames, " in out
    assert "; 0 frames dropped" in out
    with av.open(str(results.with_suffix(".mp4"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 20


def test_the_command_on_a_pipe_that_breaks_off(tiny_bundle, tmp_path, capsys) -> None:
    (tmp_path / "boxes.json").write_text(json.dumps(BOX[:13]))
    data = stream(20, container="matroska")
    with fifo(tmp_path / "pipe", data[: int(0.7 * len(data))]) as path:
        code = infer(tiny_bundle, path, tmp_path, "--boxes", tmp_path / "boxes.json", "--quiet")
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith("sdtc-infer: error: pipe '")
    assert len(err.splitlines()) == 1
    assert "what was decoded before is kept" in err
    results = [json.loads(line) for line in (tmp_path / "pipe.jsonl").read_text().splitlines()]
    assert [len(result["poses"]) for result in results] == [1] * len(results)
    assert len(results) == 13


@pytest.mark.slow
@pytest.mark.parametrize("slow", ["detection", "estimation"])
def test_the_command_drops_what_comes_too_fast(tiny_bundle, tmp_path, monkeypatch, capsys, slow) -> None:
    """Every frame takes the time of five: with --drop-late no answer is older than a few of those, wherever spent."""
    from sdtc.core.boxes import EMPTY
    from sdtc.runtime.engine import PoseEngine
    from sdtc.runtime.output.writers import JsonlWriter

    readers: list[live._Reader] = []
    behind: list[int] = []

    class Reader(live._Reader):
        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            readers.append(self)

    class Detector:
        def detect(self, image):
            if slow == "detection":
                wait_for_frames(readers[0], readers[0].count + 5)
            return EMPTY

    def estimate(self, stream, keyframes, batch_size):
        if slow == "estimation":
            wait_for_frames(readers[0], readers[0].count + 5 * len(keyframes))
        return original(self, stream, keyframes, batch_size)

    def write(self, result):
        behind.append(readers[0].count - 1 - result.number)
        write_line(self, result)

    original, write_line = PoseEngine._estimate, JsonlWriter.write
    monkeypatch.setattr(live, "_Reader", Reader)
    monkeypatch.setattr(JsonlWriter, "write", write)
    monkeypatch.setattr(PoseEngine, "_estimate", estimate)
    monkeypatch.setattr("sdtc.runtime.run.make_detector", lambda *arguments, **options: Detector())
    data = stream(60)
    step = len(data) // 60 // 188 * 188
    pieces: list[bytes | float] = []
    for start in range(0, len(data), step):
        pieces += [0.03, data[start : start + step]]
    with server(pieces) as address:
        code = infer(tiny_bundle, address, tmp_path, "--drop-late", "--reconnect", "0", "--lookahead", "0")
    out, err = capsys.readouterr()
    assert code == 0, err
    (results,) = tmp_path.glob("*.jsonl")
    numbers = [json.loads(line)["frame"] for line in results.read_text().splitlines()]
    assert numbers == sorted(set(numbers))
    assert 5 <= len(numbers) <= 30
    assert err.count("late frames dropped so far: ") == 1
    assert f"; {60 - len(numbers)} frames dropped" in out
    assert "p95 " in out
    assert max(behind) <= 18


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("clip.mp4", ["--drop-late"], "--drop-late and --reconnect are for cameras"),
        ("clip.mp4", ["--reconnect", "5"], "--drop-late and --reconnect are for cameras"),
        ("77", [], "there is no /dev/video77"),
        ("rtsp://127.0.0.1:9/x", [], "Connection refused"),
    ],
)
def test_the_command_says_what_cannot_be(tiny_bundle, tmp_path, capsys, source, options, sentence) -> None:
    assert infer(tiny_bundle, source, tmp_path / "out", "--quiet", *options) == 2
    err = capsys.readouterr().err
    assert err.startswith("sdtc-infer: error: ")
    assert len(err.splitlines()) == 1
    assert sentence in err
    assert list((tmp_path / "out").iterdir()) == []


# --- windows and tokens ------------------------------------------------------------------------------------------


class Two(FrameSource):
    """A source whose pictures change their size in the middle, and grow back."""

    def __init__(self) -> None:
        self.path, self.name, self.fps, self.num_frames, self.problems = Path("two"), "two", 25.0, None, []

    def __iter__(self):
        rng = np.random.default_rng(0)
        for index in range(18):
            size = (96, 128, 3) if 6 <= index < 12 else (48, 64, 3)
            yield Frame(index, index, None, rng.integers(0, 255, size, dtype=np.uint8))


@pytest.mark.slow
def test_tokens_of_two_sizes_are_never_mixed(tiny_bundle, tmp_path) -> None:
    """The worst case: the same box in both, so that it is held over the change."""
    (tmp_path / "boxes.json").write_text(json.dumps([{**box, "track_id": 0} for box in BOX[:18]]))
    poses = []
    for exact in (True, False):
        with sdtc.runtime.open(tiny_bundle / "model.onnx", EngineOptions(backend=ORT, exact=exact)) as engine:
            results = list(engine.track(Two(), TrackOptions(boxes=tmp_path / "boxes.json")))
            poses.append(np.array([pose.keypoints for result in results for pose in result.poses]))
    assert len(poses[0]) == 18
    np.testing.assert_allclose(poses[0], poses[1], atol=0.01)
