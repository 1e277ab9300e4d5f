from __future__ import annotations

import dataclasses
import io
import json
import math
import pickle
import random
import resource
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import sdtc.model
from sdtc.core.errors import CheckpointError, OutputError
from sdtc.model import BackboneConfig, ModelConfig, build, get_preset, load_checkpoint, save_checkpoint
from sdtc.model.checkpoint import (
    LITERAL,
    VERSION,
    WEIGHTS,
    checkpoint_data,
    load_backbone,
    load_weights,
    read_checkpoint_data,
)
from sdtc.model.init import main as init_main

MICRO: dict[str, Any] = {
    "name": "micro", "input_size": [64, 48], "backbone": {"width": 32, "depth": 1, "heads": 2, "frozen": False},
    "width": 16, "heads": 2, "delta": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    return build(get_preset("tiny")).eval()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_round_trip(tmp_path, network, suffix) -> None:
    path = tmp_path / f"ckpt{suffix}"
    save_checkpoint(path, network, trained=True)
    loaded = load_checkpoint(path)
    assert loaded.trained
    assert loaded.format == "sdtc"
    assert loaded.network.config == network.config
    for key, value in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[key], value)


def test_half_precision_files_load_as_fp32(tmp_path, network) -> None:
    save_checkpoint(tmp_path / "half.pth", network, trained=False, dtype=torch.float16)
    save_checkpoint(tmp_path / "full.pth", network, trained=False)
    assert (tmp_path / "half.pth").stat().st_size < 0.6 * (tmp_path / "full.pth").stat().st_size
    loaded = load_checkpoint(tmp_path / "half.pth").network
    assert loaded.head.conv.weight.dtype == torch.float32
    torch.testing.assert_close(loaded.head.conv.weight, network.head.conv.weight, atol=1e-5, rtol=1e-3)


def written(path: Path, network, version: int) -> Path:
    """Write a checkpoint as an sdtc of that version of checkpoints did."""
    data = checkpoint_data(network, trained=True)
    data["version"] = version
    if version < 2:
        assert [data["config"].pop(name) for name in LITERAL] == [*LITERAL.values()]
    if path.suffix == ".safetensors":
        state = data.pop("state_dict")
        safetensors.torch.save_file(state, path, metadata={"sdtc": json.dumps(data)})
    else:
        torch.save(data | {"training": {}}, path)
    return path


def with_waves(**changes):
    """A small network whose weights are sine waves, the same on every machine."""
    network = build(ModelConfig.from_dict(MICRO | changes)).eval()
    state = network.state_dict()
    for index, (key, value) in enumerate(state.items()):
        if value.is_floating_point():
            wave = torch.sin(1.7 * torch.arange(value.numel(), dtype=torch.float64) + index).view(value.shape)
            state[key] = (wave.abs() + 0.5 if key.endswith("running_var") else 0.3 * wave).float()
    network.load_state_dict(state)
    return network


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_from_before_the_readings_give_what_they_gave(tmp_path, suffix) -> None:
    """The numbers are the largest value of each heatmap, as the last sdtc that wrote version 1 computed them."""
    loaded = load_checkpoint(written(tmp_path / f"old{suffix}", with_waves(**LITERAL), 1)).network
    assert loaded.config.reading == LITERAL
    clip = (torch.arange(3 * 64 * 48 * 3) * 7 % 256).to(torch.uint8).view(1, 3, 64, 48, 3)
    want = [0.248436, -0.270389, -0.119683, 0.38109, 0.256441, -0.071055, 0.256818, 0.589282, 0.230508, 0.017798,
            0.45512, 0.556952, 0.089936, 0.105853, 0.54439]  # fmt: skip
    with torch.inference_mode():
        assert loaded(clip)[0].amax(dim=(1, 2)).tolist() == pytest.approx(want, abs=1e-5)
        for change in ({"context_softmax": "pixels"}, {"refinement": "add"}):  # the other readings do not
            other = with_waves(**LITERAL | change)
            assert other(clip)[0].amax(dim=(1, 2)).tolist() != pytest.approx(want, abs=1e-4)


@pytest.mark.parametrize("name", ["tiny", "tiny-vitpose"])
def test_packaged_checkpoints_say_their_reading(name) -> None:
    data = read_checkpoint_data(WEIGHTS / f"{name}.pth")
    config = load_checkpoint(name).network.config
    stored = LITERAL if data["version"] == 1 else {key: data["config"][key] for key in LITERAL}
    assert {key: getattr(config, key) for key in LITERAL} == stored
    assert config.reading == ({} if config.kind == "vitpose" else stored)


READINGS = [
    {"context_softmax": axis, "refinement": refinement}
    for axis in ("pixels", "channels")
    for refinement in ("add", "concatenate", "replace")
]


@pytest.mark.parametrize("reading", READINGS, ids=lambda reading: "-".join(reading.values()))
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_checkpoints_keep_their_reading(tmp_path, suffix, reading) -> None:
    save_checkpoint(tmp_path / f"x{suffix}", with_waves(**reading), trained=True)
    assert load_checkpoint(tmp_path / f"x{suffix}").network.config.reading == reading
    assert VERSION == 2


def test_weights_of_another_reading_are_refused(tmp_path) -> None:
    """Their shapes are the same, and without a word the network would compute something else than it was trained to."""
    old, ours = written(tmp_path / "last.pth", with_waves(**LITERAL), 1), with_waves()
    said = (
        r"last.pth' does not fit this network: it was trained with model.context_softmax 'channels' and "
        r"model.refinement 'replace', this network has model.context_softmax 'pixels' and model.refinement 'add': set "
        "them as in the checkpoint"
    )
    with pytest.raises(CheckpointError, match=said):
        load_weights(ours, old)
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint_data(old, ours.config)
    literal = with_waves(**LITERAL)
    load_weights(literal, old)
    assert read_checkpoint_data(old, literal.config)["training"] == {}
    assert read_checkpoint_data(old)["version"] == 1
    new = written(tmp_path / "new.pth", ours, 2)
    load_weights(with_waves(), new)
    with pytest.raises(CheckpointError, match="'add', this network has"):
        load_weights(literal, new)


@pytest.mark.parametrize("change", [{"fusion": "add"}, {"kind": "vitpose", "delta": 0}], ids=str)
def test_networks_without_refinement_have_no_reading(tmp_path, change) -> None:
    network = with_waves(**change, **LITERAL)
    old = written(tmp_path / "old.pth", network, 1)
    assert read_checkpoint_data(old, with_waves(**change).config)["version"] == 1
    load_weights(with_waves(**change), old)


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


@pytest.mark.filterwarnings("error")
def test_code_in_a_pickle_is_never_run(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "bare.pth"):
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / name)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello, I am a text file\n", "not a PyTorch file"),
        (b"", "not a PyTorch file"),
        (b"PK\x03\x04 cut off", "damaged"),
        (b"\x80\x02garbage", "damaged|objects other than tensors"),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content, sentence) -> None:
    path = tmp_path / "ckpt.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=sentence):
        load_checkpoint(path)


def test_truncated_checkpoint(tmp_path, network) -> None:
    path = tmp_path / "ckpt.pth"
    save_checkpoint(path, network, trained=False)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)
    path = tmp_path / "ckpt.safetensors"
    save_checkpoint(path, network, trained=False)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "nothing.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("data", [[1, 2], {}, {"state_dict": {}}, {"epoch": 3}])
def test_files_without_tensors(tmp_path, data) -> None:
    torch.save(data, tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match=r"no tensors|dictionary of tensors"):
        load_checkpoint(tmp_path / "ckpt.pth")


def test_another_model_shows_its_keys(tmp_path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match=r"of another model \(its first keys are layer1\.0\.conv1\.weight\)"):
        load_checkpoint(tmp_path / "resnet.pth")


def test_configuration_that_does_not_fit_the_weights(tmp_path, network) -> None:
    save_checkpoint(tmp_path / "ckpt.pth", network, trained=False)
    data = torch.load(tmp_path / "ckpt.pth", weights_only=True)
    data["config"]["delta"] = 1
    data["state_dict"]["surplus"] = torch.zeros(1)
    torch.save(data, tmp_path / "ckpt.pth")
    with pytest.raises(
        CheckpointError, match=r"1 key \(surplus\) is left over; 3 keys \(temporal_embed .*\) are of another"
    ):
        load_checkpoint(tmp_path / "ckpt.pth")


def test_newer_checkpoints_name_both_versions(tmp_path, network) -> None:
    save_checkpoint(tmp_path / "ckpt.pth", network, trained=False)
    data = torch.load(tmp_path / "ckpt.pth", weights_only=True)
    torch.save({**data, "version": 9}, tmp_path / "ckpt.pth")
    said = "version 9, this sdtc reads up to 2: update sdtc"
    for read in (load_checkpoint, read_checkpoint_data, lambda path: load_weights(network, path)):
        with pytest.raises(CheckpointError, match=said):
            read(tmp_path / "ckpt.pth")


def test_a_failed_save_keeps_the_old_file(tmp_path, network, monkeypatch) -> None:
    path = tmp_path / "ckpt.pth"
    save_checkpoint(path, network, trained=False)
    before = path.read_bytes()

    def no_space(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", no_space)
    with pytest.raises(OutputError, match="No space left"):
        save_checkpoint(path, network, trained=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write beyond `size` bytes of a file fail, as it would on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_full_disk_is_named_and_keeps_the_old_file(tmp_path, network, suffix) -> None:
    path = tmp_path / f"ckpt{suffix}"
    path.write_bytes(b"older")
    with files_of_at_most(50_000), pytest.raises(OutputError, match=rf"cannot write '.*ckpt\{suffix}': File too large"):
        save_checkpoint(path, network, trained=False)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/where.pth", "no/where.safetensors"])
def test_a_folder_that_does_not_exist(tmp_path, network, name) -> None:
    with pytest.raises(OutputError, match=r"cannot write '.*no/where\..*': No such file or directory$"):
        save_checkpoint(tmp_path / name, network, trained=False)


def test_a_folder_is_no_name_for_a_checkpoint(tmp_path, network, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="it is a folder"):
        save_checkpoint("", network, trained=False)


def test_every_checkpoint_may_be_read_by_the_same_people(tmp_path, network) -> None:
    for name in ("a.pth", "b.safetensors"):
        save_checkpoint(tmp_path / name, network, trained=False)
    assert (tmp_path / "a.pth").stat().st_mode == (tmp_path / "b.safetensors").stat().st_mode


def test_paths_may_be_text(tmp_path, network) -> None:
    path = str(tmp_path / "ckpt.safetensors")
    save_checkpoint(path, network, trained=True)
    assert load_checkpoint(path).trained
    assert load_backbone(network, path) == "sdtc"


def test_backbone_of_our_own_checkpoint(tmp_path, network) -> None:
    """What single-frame training leaves is what SDTC starts from; only its backbone is taken."""
    torch.manual_seed(4)
    single = build(dataclasses.replace(get_preset("tiny"), kind="vitpose", delta=0))
    save_checkpoint(tmp_path / "single.pth", single, trained=True)
    torch.manual_seed(5)
    net = build(get_preset("tiny"))
    head = {key: value.clone() for key, value in net.head.state_dict().items()}
    assert load_backbone(net, tmp_path / "single.pth") == "sdtc"
    for key, value in single.backbone.state_dict().items():
        assert torch.equal(net.backbone.state_dict()[key], value), key
    assert all(torch.equal(net.head.state_dict()[key], value) for key, value in head.items())
    other = build(dataclasses.replace(get_preset("tiny"), backbone=BackboneConfig(64, 6, 4)))
    save_checkpoint(tmp_path / "other.pth", other, trained=True)
    with pytest.raises(CheckpointError, match=r"other.pth' cannot be used: .* of another shape"):
        load_backbone(net, tmp_path / "other.pth")


def test_the_example_of_the_package_runs(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    example = [line.strip() for line in (sdtc.model.__doc__ or "").splitlines() if line.startswith("    ")]
    assert example
    names: dict[str, Any] = {"sdtc": sdtc}
    exec("\n".join(example).replace('"base"', '"tiny"'), names)  # the same in a tenth of the time
    assert names["checkpoint"].network.config == get_preset("tiny")


@pytest.fixture(scope="module")
def micro():
    """The least network there is: a file is small, and loading it takes milliseconds."""
    config = ModelConfig(
        name="micro", input_size=(32, 32), backbone=BackboneConfig(16, 1, 1, frozen=False), width=16, heads=1,
        motion_encoder="patch", fusion="add", delta=0,
    )  # fmt: skip
    return build(config).eval()


def damage(whole: bytes, front: int, rng: random.Random) -> bytes:
    """Change, remove or insert a few bytes, mostly among the first `front`."""
    damaged = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 9))):
        first, last = (0, front) if rng.random() < 0.8 else (max(0, len(damaged) - 2_000), len(damaged))
        place = rng.randrange(first, last)
        kind = rng.random()
        if kind < 0.6:
            damaged[place] = rng.randrange(256)
        elif kind < 0.8:
            del damaged[place : place + rng.randrange(1, 9)]
        else:
            damaged[place:place] = rng.randbytes(rng.randrange(1, 9))
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "pickle-in-zip", "legacy", "safetensors"])
@pytest.mark.filterwarnings("error")
def test_damaged_files_only_raise_named_errors(tmp_path, micro, kind) -> None:
    path = tmp_path / ("ckpt.safetensors" if kind == "safetensors" else "ckpt.pth")
    if kind == "legacy":
        torch.save(checkpoint_data(micro, True), path, _use_new_zipfile_serialization=False)
    else:
        save_checkpoint(path, micro, trained=True)
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(200):
        if kind == "pickle-in-zip":  # with the right checksum, as somebody would who means harm
            with zipfile.ZipFile(io.BytesIO(whole)) as source, zipfile.ZipFile(path, "w") as target:
                for name in source.namelist():
                    data = source.read(name)
                    target.writestr(name, damage(data, len(data), rng) if name.endswith("data.pkl") else data)
        else:  # most of a file is weights, where a change goes unseen: what steers the reader is in front and behind
            front = 8 + int.from_bytes(whole[:8], "little") if kind == "safetensors" else 8_000
            path.write_bytes(damage(whole, front, rng))
        with suppress(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "header",
    [
        "[" * 100_000,
        '{"format": "sdtc-checkpoint", "version": 1' + "0" * 5_000 + "}",
        '{"format": "sdtc-checkpoint", "version": true, "config": {}}',
        '{"format": "sdtc-checkpoint", "version": 1, "config": {"reconstruction": {"mask_ratio": 1' + "0" * 400 + "}}}",
        '{"format": "sdtc-checkpoint", "version": 1, "config": [1]}',
    ],
    ids=["deep", "digits", "version", "float", "list"],
)
def test_headers_that_no_writer_wrote(tmp_path, header) -> None:
    path = tmp_path / "ckpt.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, metadata={"sdtc": header})
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "odd",
    [
        torch.eye(16).to_sparse(),
        torch.zeros(16, device="meta"),
        torch.zeros(16, dtype=torch.complex64),
        torch.zeros(16, dtype=torch.int8),
    ],
    ids=["sparse", "meta", "complex", "int8"],
)
@pytest.mark.filterwarnings("error")
def test_weights_that_are_no_plain_numbers(tmp_path, micro, odd) -> None:
    data = checkpoint_data(micro, True)
    data["state_dict"]["backbone.norm.weight"] = odd
    torch.save(data, tmp_path / "odd.pth")
    with pytest.raises(
        CheckpointError, match=r"1 key \(backbone\.norm\.weight.*\) is (sparse|of another|not floating)"
    ):
        load_checkpoint(tmp_path / "odd.pth")


def test_seeds_that_do_not_fit(tmp_path, capsys) -> None:
    for seed in (2**63, 10**30, -1):
        assert init_main(["tiny", "--output", str(tmp_path / "a.pth"), f"--seed={seed}"]) == 2
        assert f"--seed is {seed}: expected a whole number from 0 to" in capsys.readouterr().err
    assert not (tmp_path / "a.pth").exists()
    assert init_main(["tiny", "--output", str(tmp_path / "a.pth"), "--seed", str(2**63 - 1)]) == 0


@pytest.mark.slow
def test_init_command(tmp_path, capsys) -> None:
    for name in ("a.pth", "b.pth"):
        assert init_main(["tiny", "--output", str(tmp_path / name), "--seed", "7"]) == 0
    a, b = (load_checkpoint(tmp_path / name).network.state_dict() for name in ("a.pth", "b.pth"))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not load_checkpoint(tmp_path / "a.pth").trained
    assert init_main(["tiny", "--output", str(tmp_path / "no" / "where.pth")]) == 1
    assert init_main(["tiny", "--backbone", __file__, "--output", str(tmp_path / "c.pth")]) == 2
    assert "not a PyTorch file" in capsys.readouterr().err
    assert not (tmp_path / "c.pth").exists()


def test_the_packaged_checkpoint_by_its_name_unless_a_file_has_it(tmp_path, monkeypatch) -> None:
    packaged = load_checkpoint("tiny-vitpose")
    assert packaged.trained
    assert packaged.network.config.backbone == get_preset("tiny").backbone
    assert (WEIGHTS / "tiny-vitpose.pth").stat().st_size < 6e6
    network = build(get_preset("tiny"))
    load_backbone(network, "tiny-vitpose")
    assert torch.equal(network.backbone.pos_embed, packaged.network.backbone.pos_embed)

    tiny = load_checkpoint("tiny")
    assert tiny.trained
    preset = get_preset("tiny")
    reconstruction = tiny.network.config.reconstruction  # of its last training
    assert tiny.network.config == dataclasses.replace(preset, reconstruction=reconstruction)
    assert (WEIGHTS / "tiny.pth").stat().st_size < 6e6

    monkeypatch.chdir(tmp_path)
    save_checkpoint("tiny-vitpose", build(get_preset("tiny")), trained=False)
    assert not load_checkpoint("tiny-vitpose").trained
    with pytest.raises(CheckpointError, match=r"'tiny-vitpose\.pth' does not exist"):
        load_checkpoint("tiny-vitpose.pth")
    with pytest.raises(CheckpointError, match="'giant' does not exist"):
        load_checkpoint("giant")


def test_an_archive_that_swells_is_not_unpacked(tmp_path) -> None:
    """A few kilobytes became gigabytes of memory."""
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/version", "3")
        archive.writestr("a/data.pkl", bytes(64 << 20))
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=r"bomb\.pth' would grow to more than 20 times its size"):
        load_checkpoint(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "name", ["x" * 300, "x" * 300 + ".pth", "a\0b", "loop.pth"], ids=["long", "pth", "null", "loop"]
)
def test_names_that_no_checkpoint_can_have(tmp_path, monkeypatch, name) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop.pth").symlink_to("loop.pth")
    with pytest.raises(CheckpointError, match=r"cannot be read: .|does not exist"):
        load_checkpoint(name)


def test_configurations_and_versions_that_no_network_has(tmp_path) -> None:
    good = checkpoint_data(build(ModelConfig.from_dict(MICRO)), trained=True)
    config = good["config"]
    for changes in (
        {"config": None}, {"config": config | {"width": 10**9}}, {"config": config | {"width": math.nan}},
        {"config": config | {"input_size": [2**40, 2**40]}}, {"config": config | {"width": 16.5}},
        {"config": config | {"backbone": config["backbone"] | {"depth": 10**9}}}, {"version": math.inf},
        {"version": torch.ones(3)}, {"version": True}, {"version": 3.0}, {"state_dict": {}}, {"state_dict": [1]},
    ):  # fmt: skip
        torch.save(good | changes, tmp_path / "x.pth")
        with pytest.raises(CheckpointError):
            load_checkpoint(tmp_path / "x.pth")
    torch.save(good | {"version": 2.0, "config": config | {"width": float(config["width"])}}, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth").trained


def test_contents_that_do_not_have_their_checksums(tmp_path, micro) -> None:
    """PyTorch loads such a file without a word, with other weights."""
    path = tmp_path / "x.pth"
    save_checkpoint(path, micro, trained=True)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda each: each.file_size)
    data[entry.header_offset + 512] ^= 0x40
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)
    with pytest.raises(CheckpointError, match="is damaged: its checksums or headers do not fit"):
        load_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, micro, value) -> None:
    data = checkpoint_data(micro, trained=True)
    key = next(key for key, tensor in data["state_dict"].items() if tensor.is_floating_point())
    data["state_dict"][key] = data["state_dict"][key].clone()
    data["state_dict"][key].view(-1)[0] = value
    torch.save(data, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=rf"1 key \({key}\) is not finite"):
        load_checkpoint(tmp_path / "x.pth")
