"""Reading and writing files safely: bounded JSON, atomic replacement, streamed hashes."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdtc.core.errors import InputError, OutputError

MAX_JSON_BYTES = 256 << 20  # a whole PoseTrack split's detections are about 50 MB


def read_json(path: Path, what: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file from outside.

    Args:
        path: the file.
        what: what it should be, for the message ("boxes", "manifest").
        max_bytes: refuse anything larger.

    Raises:
        InputError: missing, too large, not UTF-8 (with or without a byte order mark), or not JSON (the line is named).
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise InputError(f"{what} file '{path}' has {size:,} bytes: at most {max_bytes:,} are read")
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{what} file '{path}' does not exist") from None
    except OSError as error:
        raise InputError(f"{what} file '{path}' cannot be read: {error.strerror}") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # UTF-32's mark begins with UTF-16's
        raise InputError(
            f"{what} file '{path}' is UTF-16 text, as Windows PowerShell's > writes it: save it as UTF-8, there with "
            "| Out-File -Encoding utf8"
        )
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{what} file '{path}' is not JSON: it is not even text") from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and (error.lineno, error.colno) == (2, 1):  # the first line is a whole value
            raise InputError(
                f"{what} file '{path}' is JSON lines, with a value on each line: expected one JSON value, such as a "
                "list of them"
            ) from None
        raise InputError(
            f"{what} file '{path}' is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise InputError(f"{what} file '{path}' is nested too deeply to be a {what} file") from None
    except ValueError:  # Python converts whole numbers of at most 4,300 digits
        raise InputError(f"{what} file '{path}' has a whole number of thousands of digits") from None


def make_directory(path: Path) -> Path:
    """Create a directory for results and check that it can be written.

    Raises:
        OutputError: it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".sdtc-{os.getpid()}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"cannot write to the folder '{path}' ({error.strerror}): choose another with `output`"
        ) from None
    return path


def cache_folder(name: str) -> Path:
    """Return a cache folder: ``$SDTC_CACHE/name``, or a folder below the user's cache folder."""
    root = os.environ.get("SDTC_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sdtc"
    return Path(root) / name


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on any failure it is removed.

    Raises:
        OutputError: the file system refuses (no space, no permission).
    """
    if not path.name:  # "", "." or "/"
        raise OutputError(f"cannot write '{path}': it is a folder")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_json(path: Path, data: Any) -> None:
    """Write JSON, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
