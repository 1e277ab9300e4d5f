"""Show the poses of a webcam, a network stream, a pipe or a file while they are estimated.

    python examples/webcam.py bundle 0                       the first webcam
    python examples/webcam.py bundle rtsp://camera/stream
    python examples/webcam.py bundle video.mp4 --no-window   prints, and opens no window

`bundle` is what export/to_trt.py wrote. Ctrl-C, or `q` in the window, ends it.
"""

from __future__ import annotations

import argparse

import cv2

import sdtc.runtime
from sdtc.runtime.output.drawing import draw_frame
from sdtc.runtime.sources.live import is_live


def main() -> None:
    parser = argparse.ArgumentParser(description="Show poses while they are estimated.")
    parser.add_argument("bundle")
    parser.add_argument("source", help="a camera's number, an address, a pipe, - for standard input, or a file")
    parser.add_argument("--window", action=argparse.BooleanOptionalAction, default=True)
    args = parser.parse_args()
    source = sdtc.runtime.LiveSource(args.source, drop_late=True) if is_live(args.source) else args.source
    with sdtc.runtime.open(args.bundle) as engine:
        for frame in engine.track(source):
            people = ", ".join(f"{pose.track_id} ({pose.score:.2f})" for pose in frame.poses) or "nobody"
            print(f"frame {frame.number}, {1000 * frame.latency:.0f} ms after it came: {people}", flush=True)
            if args.window and frame.image is not None:
                cv2.imshow("sdtc", draw_frame(frame, engine.skeleton)[..., ::-1])
                if cv2.waitKey(1) == ord("q"):
                    break


if __name__ == "__main__":
    main()
