"""Senders for tests of live sources: streams of numbered frames, pipes, and TCP servers that stall and hang up."""

from __future__ import annotations

import io
import os
import socket
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def packets(frames, size=(48, 64), start=0):
    """Encode frames whose brightness is 4 times their number, 10 a second, a keyframe every ten."""
    codec = av.CodecContext.create("libx264", "w")
    codec.height, codec.width, codec.pix_fmt, codec.gop_size = *size, "yuv420p", 10
    codec.framerate, codec.time_base, codec.options = Fraction(10), Fraction(1, 10), {"tune": "zerolatency"}
    for number in range(start, start + frames):
        noise = np.random.default_rng(number).integers(0, 3, (*size, 3), dtype=np.uint8)  # every frame has bytes
        frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 4 * number % 250, np.uint8) + noise, format="rgb24")
        frame.pts = number
        yield from codec.encode(frame)
    yield from codec.encode()


def stream(
    frames, size=(48, 64), start=0, container="mpegts", clock: Callable[[int], int] = lambda pts: pts, spoilt=()
) -> bytes:
    """A stream of `packets`, some of them spoilt; `clock` says what the sender's clock shows."""
    file = io.BytesIO()
    options = {"movflags": "frag_every_frame+empty_moov"} if container == "mp4" else {}
    with av.open(file, "w", format=container, options=options) as output:
        track = output.add_stream("libx264", rate=10)
        track.height, track.width, track.pix_fmt = *size, "yuv420p"
        for packet in packets(frames, size, start):
            pts = packet.pts
            packet = av.Packet(b"\0\0\0\1\x65" + bytes(99)) if pts in spoilt else packet
            packet.time_base = Fraction(1, 10)
            packet.stream, packet.pts, packet.dts = track, clock(pts), clock(pts)
            output.mux(packet)
    return file.getvalue()


@contextmanager
def fifo(path: Path, *pieces: bytes | float):
    """A pipe into which bytes are written, with pauses in seconds; it stays open until the end of the context."""
    os.mkfifo(path)
    done = threading.Event()

    def write() -> None:
        with path.open("wb", buffering=0) as file:
            try:
                for piece in pieces:
                    if isinstance(piece, bytes):
                        file.write(piece)
                    else:
                        done.wait(piece)
            except BrokenPipeError:
                return

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield str(path)
    finally:
        done.set()
        thread.join(5)
        assert not thread.is_alive()


@contextmanager
def server(*connections: list[bytes | float]):
    """A TCP server: a list for each connection, of bytes that it sends and pauses in seconds; then it hangs up.

    When all connections have been served, nobody listens any more.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    done = threading.Event()

    def send(connection: socket.socket, pieces: list[bytes | float]) -> None:
        with connection, suppress(OSError):
            for piece in pieces:
                if isinstance(piece, bytes):
                    connection.sendall(piece)
                else:
                    done.wait(piece)

    def serve() -> None:
        with listener:
            for pieces in connections:
                connection, _ = listener.accept()
                threading.Thread(target=send, args=(connection, pieces), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://{address[0]}:{address[1]}"
    finally:
        done.set()
        with suppress(OSError):  # it may still wait for somebody
            socket.create_connection(address, 0.2).close()
        thread.join(5)
