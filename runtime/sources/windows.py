"""Windows of T = 2δ+1 frames around each keyframe, over a stream that is read once.

Indices are clamped at both ends of the sequence; a frame that is missing, or of another size than the keyframe,
is replaced by the keyframe (paper, section 1). A gap in the stream ends one sequence and begins another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeVar

from sdtc.runtime.sources.base import GAP


class HasImage(Protocol):
    """A frame, or something that belongs to one."""

    @property
    def image(self) -> Any: ...


T = TypeVar("T", bound=HasImage)


def windows(frames: Iterable[T], delta: int, lookahead: int | None = None) -> Iterator[tuple[T, list[T]]]:
    """Yield every frame as a keyframe, with the frames of its window.

    At most 2δ+1 frames are held. A keyframe t is yielded once frame t+lookahead has been read, or the stream has ended
    or has a gap. An error of the stream is raised after the keyframes before it.

    Args:
        frames: the stream, with `GAP` where it pauses for a while or where the next frame does not follow the last.
        delta: δ.
        lookahead: how many frames to wait for, 0 to δ; δ if not given. Later indices are clamped.

    Yields:
        The keyframe, and T frames in order, all with images; an empty list if the keyframe itself is missing.
    """
    lookahead = delta if lookahead is None else lookahead
    buffer: deque[T] = deque(maxlen=2 * delta + 1)
    position = 0  # of the next keyframe in the buffer
    for frame in _with_end(frames):
        if frame is GAP:
            while position < len(buffer):
                yield buffer[position], _window(buffer, position, delta)
                position += 1
            buffer.clear()
            position = 0
            continue
        if len(buffer) == buffer.maxlen:
            position -= 1
        buffer.append(frame)
        if len(buffer) - 1 - position == lookahead:
            yield buffer[position], _window(buffer, position, delta)
            position += 1


def _with_end(frames: Iterable[Any]) -> Iterator[Any]:
    """Yield frames and a `GAP` at their end, also before an error: windows that have begun are still complete."""
    try:
        yield from frames
    except Exception:
        yield GAP
        raise
    yield GAP


def _window(buffer: deque[T], position: int, delta: int) -> list[T]:
    keyframe = buffer[position]
    if keyframe.image is None:
        return []
    chosen = []
    for offset in range(-delta, delta + 1):
        frame = buffer[min(max(position + offset, 0), len(buffer) - 1)]
        fits = frame.image is not None and frame.image.shape == keyframe.image.shape
        chosen.append(frame if fits else keyframe)
    return chosen
