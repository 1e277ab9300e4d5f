"""Windows of T = 2δ+1 frames around each keyframe, over a stream that is read once.

Indices are clamped at both ends of the sequence; a frame that is missing, or of another size than the keyframe,
is replaced by the keyframe (paper, section 1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from sdtc.runtime.video import Frame


def windows(frames: Iterable[Frame], delta: int) -> Iterator[tuple[Frame, list[np.ndarray]]]:
    """Yield every frame as a keyframe, with the images of its window.

    At most 2δ+1 frames are held. A keyframe is yielded once frame t+δ has been read, or the stream has ended.

    Yields:
        The keyframe, and T images ``[H, W, 3]`` in order; no images where the keyframe itself is missing.
    """
    buffer: deque[Frame] = deque(maxlen=2 * delta + 1)
    position = 0  # of the next keyframe in the buffer
    for frame in frames:
        if len(buffer) == buffer.maxlen:
            position -= 1
        buffer.append(frame)
        if len(buffer) - 1 - position == delta:
            yield buffer[position], _window(buffer, position, delta)
            position += 1
    while position < len(buffer):
        yield buffer[position], _window(buffer, position, delta)
        position += 1


def _window(buffer: deque[Frame], position: int, delta: int) -> list[np.ndarray]:
    keyframe = buffer[position].image
    if keyframe is None:
        return []
    images = []
    for offset in range(-delta, delta + 1):
        image = buffer[min(max(position + offset, 0), len(buffer) - 1)].image
        images.append(image if image is not None and image.shape == keyframe.shape else keyframe)
    return images
