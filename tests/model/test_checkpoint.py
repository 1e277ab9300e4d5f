from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from sdtc.errors import CheckpointError, OutputError
from sdtc.model import build, get_preset, load_checkpoint, save_checkpoint
from sdtc.model.init import main as init_main


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


class Evil:
    def __reduce__(self):
        return (Path("pwned").touch, ())


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
    with pytest.raises(CheckpointError, match=r"1 keys are left over \(surplus\); 3 shapes differ \(temporal_embed"):
        load_checkpoint(tmp_path / "ckpt.pth")


def test_newer_checkpoints_name_both_versions(tmp_path, network) -> None:
    save_checkpoint(tmp_path / "ckpt.pth", network, trained=False)
    data = torch.load(tmp_path / "ckpt.pth", weights_only=True)
    torch.save({**data, "version": 9}, tmp_path / "ckpt.pth")
    with pytest.raises(CheckpointError, match="version 9, this sdtc reads up to 1"):
        load_checkpoint(tmp_path / "ckpt.pth")


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
