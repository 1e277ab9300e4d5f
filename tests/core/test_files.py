from __future__ import annotations

from pathlib import Path

import pytest

from sdtc.core.errors import InputError, OutputError
from sdtc.core.files import atomic_write, read_json, visible_files, write_json


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"{", "is not valid JSON: Expecting property name .* at line 1, column 2"),
        (b"\xff\x00\xfe", "is not JSON: it is not even text"),
        (b"\xef\xbb\xbf{", "is not valid JSON: Expecting property name .* at line 1, column 2"),
        ("[]".encode("utf-16"), "is UTF-16 text, as Windows PowerShell's > writes it: save it as UTF-8"),
        (b"\xfe\xff" + "[]".encode("utf-16-be"), "is UTF-16 text"),
        (b'{"a": 1}\n{"a": 2}\n', "is JSON lines, with a value on each line: expected one JSON value, such as a list"),
        (b'{"a": 1}{"a": 2}', "is not valid JSON: Extra data at line 1, column 9"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"9" * 5_000, "has a whole number of thousands of digits"),
        (b'{"a": 1, "b": [{"c": 1, "d": 2, "c": 1}]}', "has the key 'c' twice in one object: only one of them can be"),
        (b'{"annotations": [1], "annotations": []}', "has the key 'annotations' twice in one object"),
        (b'{"a": -' + b"9" * 5_000 + b"}", "has a whole number of thousands of digits"),
        (b" " * 100_001, "has 100,001 bytes: at most 100,000 are read"),
    ],
    ids=[
        "cut",
        "bytes",
        "mark",
        "utf-16",
        "utf-16-be",
        "lines",
        "one-line",
        "deep",
        "digits",
        "inner",
        "twice",
        "negative",
        "large",
    ],
)
def test_files_that_are_no_json(tmp_path, content, sentence) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"boxes file '.*data\.json' {sentence}"):
        read_json(path, "boxes", max_bytes=100_000)


def test_missing_files_and_folders(tmp_path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_json(tmp_path / "nothing.json", "boxes")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_json(tmp_path, "boxes")


def test_what_is_written_is_read(tmp_path) -> None:
    path = tmp_path / "data.json"
    write_json(path, {"a": [1, 0.5, None, "δ"]})
    assert read_json(path, "boxes") == {"a": [1, 0.5, None, "δ"]}
    assert list(tmp_path.iterdir()) == [path]


def test_a_byte_order_mark_is_read(tmp_path) -> None:
    (tmp_path / "data.json").write_text('["δ"]', encoding="utf-8-sig")
    assert read_json(tmp_path / "data.json", "boxes") == ["δ"]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path) -> None:
    path = tmp_path / "data.json"
    path.write_text("older")
    with pytest.raises(OutputError, match=r"cannot write .* No space left on device"), atomic_write(path) as temporary:
        temporary.write_text("newer")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_folder_is_no_file_to_write(name) -> None:
    with pytest.raises(OutputError, match=r"cannot write .*: it is a folder"), atomic_write(Path(name)):
        raise AssertionError("never reached")


def test_hidden_files_are_passed_over(tmp_path) -> None:
    for name in ("b.json", "a.json", "._a.json", ".hidden.json", "c.txt"):
        (tmp_path / name).write_text("{}")
    assert visible_files(tmp_path, "*.json") == [tmp_path / "a.json", tmp_path / "b.json"]
    assert visible_files(tmp_path / "nothing", "*.json") == []
