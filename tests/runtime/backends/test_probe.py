"""Which backend is chosen: the fastest that works, once."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from sdtc.core.errors import BundleError, EngineError, MissingExtraError
from sdtc.core.manifest import Manifest
from sdtc.runtime.backends import choice as sessions
from sdtc.runtime.backends import probe
from sdtc.runtime.backends.choice import Choice, cpu_candidates
from sdtc.runtime.backends.session import TensorSpec

AUTO = Choice("auto", "cpu", precision="auto")
GRAPHS = ("encoder", "temporal")


class FakeSession:
    """A session that takes its time on a clock of its own."""

    clock = 0.0

    def __init__(self, choice: Choice, graph: str, seconds: float) -> None:
        self.backend, self.graph, self.seconds = f"{choice.backend} {choice.precision}", graph, seconds
        self.inputs = {"x": TensorSpec((None, 4), np.dtype(np.uint8))}
        self.closed = 0

    def run(self, inputs, outputs=None):
        assert inputs["x"].shape == (1, 4)
        FakeSession.clock += self.seconds
        return {}

    def close(self) -> None:
        self.closed += 1

    def __enter__(self):
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Backends that take as long as they are told, or fail; `opened` holds every session."""
    seconds: dict[tuple[str, str], float | Exception] = {
        ("onnxruntime", "fp32"): 0.004, ("openvino", "fp32"): 0.003, ("openvino", "bf16"): 0.001,
        ("openvino", "int8"): 0.002,
    }  # fmt: skip
    opened: list[FakeSession] = []
    slower_alone = [4.0]  # how much slower one thread is than two

    def open_session(manifest, directory, choice, graph, threads):
        value = seconds[choice.backend, choice.precision]
        if isinstance(value, Exception):
            raise value
        opened.append(FakeSession(choice, graph, value if threads > 1 else value * slower_alone[0]))
        return opened[-1]

    monkeypatch.setattr(probe, "open_session", open_session)
    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=lambda: FakeSession.clock))
    monkeypatch.setattr(sessions, "_is_installed", lambda module: True)
    monkeypatch.setattr(probe, "available_cpus", lambda: 2)
    monkeypatch.setenv("SDTC_CACHE", str(tmp_path / "cache"))
    return SimpleNamespace(
        seconds=seconds, opened=opened, slower_alone=slower_alone, cache=tmp_path / "cache" / "backends"
    )


@pytest.fixture(scope="module")
def manifest(tiny_bundle) -> Manifest:
    return Manifest.load(tiny_bundle / "model.json")


def open_all(manifest, tmp_path, choice=AUTO, threads=None) -> probe.Opened:
    return probe.open_sessions(manifest, tmp_path, choice, GRAPHS, threads)


def test_candidates(monkeypatch) -> None:
    installed = {"onnxruntime", "openvino"}
    monkeypatch.setattr(sessions, "_is_installed", lambda module: module in installed)

    def names(choice):
        return [(each.backend, each.precision) for each in cpu_candidates(choice)]

    openvino = [("openvino", precision) for precision in ("fp32", "bf16", "int8")]
    assert names(AUTO) == [("onnxruntime", "fp32"), *openvino]
    assert names(Choice("auto", "cpu")) == [("onnxruntime", "fp32"), ("openvino", "fp32")]
    assert names(Choice("openvino", "cpu", precision="auto")) == openvino
    assert names(Choice("onnxruntime", "cpu", precision="auto")) == [("onnxruntime", "fp32")]
    installed.remove("openvino")
    assert names(AUTO) == [("onnxruntime", "fp32")]
    installed.clear()
    assert names(AUTO) == [("onnxruntime", "fp32")]  # opening it says what to install
    assert cpu_candidates(Choice("auto", "cpu", "a notice"))[0].notice == "a notice"


def test_the_fastest_is_taken_and_the_others_are_closed(manifest, machine, tmp_path) -> None:
    opened = open_all(manifest, tmp_path)
    assert (opened.choice.backend, opened.choice.precision) == ("openvino", "bf16")
    assert [session.graph for session in opened.sessions] == list(GRAPHS)
    assert all(session.closed == (session not in opened.sessions) for session in machine.opened)
    assert len(machine.opened) == 10
    assert opened.threads == 2
    assert "openvino bf16 on 2 threads is used from now on" in opened.measured
    assert len(opened.measured.splitlines()) == 1


@pytest.mark.slow
def test_it_is_measured_once_for_a_bundle_and_a_number_of_threads(manifest, machine, tmp_path) -> None:
    first = open_all(manifest, tmp_path)
    machine.seconds["openvino", "bf16"] = 1.0
    again = open_all(manifest, tmp_path)
    assert (again.choice, again.measured) == (first.choice, "")
    assert len(machine.opened) == 10 + 2
    given = open_all(manifest, tmp_path, threads=7)
    assert (given.choice.precision, given.threads) == ("int8", 7)
    fp32 = open_all(manifest, tmp_path, Choice("auto", "cpu"))
    assert (fp32.choice.backend, fp32.choice.precision) == ("openvino", "fp32")


def test_one_thread_is_taken_where_two_are_no_faster(manifest, machine, tmp_path) -> None:
    machine.slower_alone[0] = 0.5
    opened = open_all(manifest, tmp_path)
    assert (opened.choice.precision, opened.threads) == ("bf16", 1)
    assert all(session.closed == (session not in opened.sessions) for session in machine.opened)
    again = open_all(manifest, tmp_path)
    assert (again.threads, again.measured) == (1, "")
    alone = open_all(manifest, tmp_path, Choice("onnxruntime", "cpu"))  # threads are still open
    assert (alone.threads, len(alone.measured.split(" ms"))) == (1, 3)


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "{}", '{"backend": "tensorrt", "precision": "fp32", "threads": 2}',
        '{"backend": "openvino", "precision": "bf16", "threads": 64}', '{"backend": [1], "threads": [2]}',
    ],
)  # fmt: skip
def test_a_damaged_cache_is_measured_again(manifest, machine, tmp_path, text) -> None:
    open_all(manifest, tmp_path)
    (file,) = machine.cache.iterdir()
    file.write_text(text)
    assert open_all(manifest, tmp_path).measured
    assert json.loads(file.read_text())["backend"] == "openvino"


def test_a_cache_that_cannot_be_written_is_no_reason_to_fail(manifest, machine, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SDTC_CACHE", str(tmp_path / "file"))
    opened = open_all(manifest, tmp_path)
    assert opened.choice.precision == "bf16"
    assert "is used this time, and measured again the next, as the cache cannot be written" in opened.measured
    assert "from now on" not in opened.measured
    assert open_all(manifest, tmp_path).measured


def test_what_fails_is_left_out_until_nothing_is_left(manifest, machine, tmp_path) -> None:
    machine.seconds["openvino", "bf16"] = EngineError("this processor does not compute in bf16")
    machine.seconds["onnxruntime", "fp32"] = MissingExtraError("not installed")
    assert open_all(manifest, tmp_path).choice.precision == "int8"
    for key in machine.seconds:
        machine.seconds[key] = BundleError(f"damaged, says {key[1]}")
    with pytest.raises(BundleError, match="damaged"):
        open_all(manifest, tmp_path, threads=1)


def test_half_an_engine_is_closed(manifest, machine, tmp_path, monkeypatch) -> None:
    plain = probe.open_session

    def broken(manifest, directory, choice, graph, threads):
        if graph == "temporal":
            raise EngineError("no")
        return plain(manifest, directory, choice, graph, threads)

    monkeypatch.setattr(probe, "open_session", broken)
    with pytest.raises(EngineError, match="no"):
        open_all(manifest, tmp_path, Choice("onnxruntime", "cpu"))
    assert [session.closed for session in machine.opened] == [1]


def test_nothing_is_measured_where_there_is_no_choice(manifest, machine, tmp_path) -> None:
    opened = open_all(manifest, tmp_path, Choice("openvino", "cpu", precision="int8"), threads=2)
    assert (opened.choice.precision, opened.measured) == ("int8", "")
    assert not machine.cache.exists()


@pytest.mark.slow
def test_on_real_backends(manifest, tiny_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SDTC_CACHE", str(tmp_path))
    opened = probe.open_sessions(manifest, tiny_bundle, Choice("auto", "cpu"), GRAPHS, 1)
    for session in opened.sessions:
        assert session.backend.startswith(opened.choice.backend)
        session.close()
