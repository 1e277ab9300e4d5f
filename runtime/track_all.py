"""Several sources at once with one engine: a thread each, and one stream of results (`PoseEngine.track_all`)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Hashable, Mapping
from contextlib import ExitStack
from pathlib import Path

from sdtc.core.errors import InputError, SdtcError, VideoError
from sdtc.runtime.check import check_path, check_type
from sdtc.runtime.options import TrackOptions
from sdtc.runtime.output.results import FrameResult
from sdtc.runtime.sources.base import FrameSource
from sdtc.runtime.sources.handover import Handover
from sdtc.runtime.sources.live import is_live
from sdtc.runtime.sources.open import live_identity, open_source

Track = Callable[[FrameSource, TrackOptions], Generator[FrameResult, None, None]]
Sources = Mapping[str, str | Path | FrameSource]
QUEUED = 2  # results that may wait for the consumer, beside the one that each source holds


def track_all(
    track: Track, sources: Sources, options: TrackOptions | Mapping[str, TrackOptions] | None
) -> Generator[tuple[str, FrameResult], None, None]:
    """Run over several sources at once; see `sdtc.runtime.engine.PoseEngine.track_all`.

    Args:
        track: runs over one source; called from several threads.
        sources, options: see there.
    """
    sources = dict(sources) if isinstance(sources, Mapping) else sources
    check_type("sources", sources, dict)
    _check_sources(sources)
    return _results(track, sources, _options_by_name(sources, options))


def _check_sources(sources: Sources) -> None:
    if not sources:
        raise InputError("`sources` is empty: expected at least one, by name")
    known: dict[Hashable, str] = {}
    for name, source in sources.items():
        key: Hashable = name  # a file can be read any number of times
        if isinstance(source, FrameSource):
            key = id(source)
        else:
            check_path(f"sources[{name!r}]", source)
            if is_live(str(source)):
                key = "live", live_identity(str(source))
        if key in known:
            raise InputError(
                f"`sources` has one live or open source twice, as '{known[key]}' and '{name}': it can be read once"
            )
        known[key] = str(name)


def _options_by_name(
    sources: Sources, options: TrackOptions | Mapping[str, TrackOptions] | None
) -> dict[str, TrackOptions]:
    if isinstance(options, Mapping):
        for name, each in options.items():
            if name not in sources:
                raise InputError(
                    f"`options` is for '{name}', which is none of the sources: {', '.join(map(str, sources))}"
                )
            check_type(f"options[{name!r}]", each, TrackOptions)
        return {name: options.get(name, TrackOptions()) for name in sources}
    options = TrackOptions() if options is None else options
    check_type("options", options, TrackOptions)
    if len(sources) > 1 and (options.boxes is not None or options.resume_from is not None):
        raise InputError(
            "`options` has boxes, or a part that is done, for one source: give options by the name of the source"
        )
    return dict.fromkeys(sources, options)


def _results(
    track: Track, sources: Sources, options: Mapping[str, TrackOptions]
) -> Generator[tuple[str, FrameResult], None, None]:
    results: Handover[tuple[str, FrameResult]] = Handover(
        0 if any(isinstance(each, FrameSource) and each.drop_late for each in sources.values()) else QUEUED
    )
    runs = [_SourceRun(track, name, source, options[name], results) for name, source in sources.items()]
    left = len(runs)
    counting = threading.Lock()

    def work(run: _SourceRun) -> None:
        nonlocal left
        run.execute()
        with counting:
            left -= 1
        if run.bug is not None:
            results.close()  # whatever else would still come
        elif not left:
            results.end()

    threads = [threading.Thread(target=work, args=(run,), name=f"sdtc-{run.name}", daemon=True) for run in runs]
    try:
        for thread in threads:
            thread.start()
        while batch := results.take(len(runs)):  # one of each, so that threads wake each other less often
            yield from batch
    finally:
        results.close()
        for run in runs:
            run.stop()
        for thread in threads:
            if thread.ident is not None:  # else it could not be started
                thread.join()
    for run in runs:
        if run.bug is not None:
            raise run.bug
    failed = {run.name: run.error for run in runs if run.error is not None}
    if failed:
        kind = InputError if all(isinstance(error, InputError) for error in failed.values()) else SdtcError
        why = "; ".join(f"'{name}': {error}" for name, error in failed.items())
        raise kind(f"{len(failed)} of {len(runs)} sources failed: {why}") from next(iter(failed.values()))


class _SourceRun:
    """One source, in a thread of its own.

    Attributes:
        name: of the source.
        error: why it failed, or None.
        bug: an error that this package does not raise on purpose, or None.
    """

    def __init__(
        self,
        track: Track,
        name: str,
        source: str | Path | FrameSource,
        options: TrackOptions,
        results: Handover[tuple[str, FrameResult]],
    ) -> None:
        self.name = name
        self.error: SdtcError | None = None
        self.bug: BaseException | None = None
        self._track, self._given, self._options, self._results = track, source, options, results
        self._source: FrameSource | None = None  # also one that is still being opened
        self._stopped = False

    def execute(self) -> None:
        """Hand on every result; nothing is raised."""
        try:
            with ExitStack() as stack:
                source = self._given
                if not isinstance(source, FrameSource):
                    source = stack.enter_context(open_source(source, self._opening))
                self._opening(source)
                results = self._track(source, self._options)
                stack.callback(results.close)
                for result in results:
                    if not self._results.put((self.name, result)):
                        return
                if source is not self._given and source.problems:
                    raise VideoError("; ".join(source.problems))
        except SdtcError as error:
            self.error = error
        except BaseException as error:  # raised again in the thread that takes the results
            self.bug = error

    def stop(self) -> None:
        """End soon, also while a live source is waited for."""
        self._stopped = True
        if self._source is not None:
            self._source.stop()

    def _opening(self, source: FrameSource) -> None:
        self._source = source
        if self._stopped:  # `stop` may not have seen it
            source.stop()
