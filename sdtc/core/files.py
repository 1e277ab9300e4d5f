"""Reading and writing files safely: bounded JSON, atomic replacement, streamed hashes."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import reprlib
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sdtc.core.errors import InputError, OutputError

MAX_JSON_BYTES = 256 << 20  # a whole PoseTrack split's detections are about 50 MB
MAX_NAME = 255  # bytes of a file's name, on all usual file systems


def read_json(path: Path, what: str, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Parse a JSON file from outside.

    Args:
        path: the file.
        what: what it should be, for the message ("boxes", "manifest").
        max_bytes: refuse anything larger.

    Raises:
        InputError: missing, too large, not UTF-8 (with or without a byte order mark), not JSON (the line is named), or
            an object has a key twice.
    """

    def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):  # Python would take the last one without a word
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise InputError(
                f"{what} file '{path}' has the key {reprlib.repr(twice)} twice in one object: only one of them can be "
                "meant, so remove the other"
            )
        return found

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
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique_keys)
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


def unique() -> str:
    """Return a text for temporary names that no other call returns, on this machine or on another one.

    Containers that share a folder often all have the same process number.
    """
    return f"{os.getpid()}-{secrets.token_hex(4)}"


def shorten(name: str, size: int = MAX_NAME) -> str:
    """Return a name of at most `size` bytes: the name itself, or its beginning and a hash of the whole."""
    data = os.fsencode(name)
    if len(data) <= size:
        return name
    ending = "~" + hashlib.sha256(data).hexdigest()[:8]
    return data[: size - len(ending)].decode("utf-8", "ignore") + ending


def text_of(name: str) -> str:
    """Return a file's name as text that can be written in UTF-8, also if the file system has it in another encoding."""
    return os.fsencode(name).decode("utf-8", "replace")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock on a file that is going to be written, which need not exist. It ends with the process at the latest.

    Raises:
        InputError: another run, in this process or another one, holds it.
        OutputError: its lock file cannot be made.
    """
    lock = path.with_name(f".{shorten(path.name, 80)}.lock")
    try:
        file = _take_lock(lock)
    except BlockingIOError:
        raise InputError(
            f"'{path}' is being written by another run: wait for its end, or choose another `output`"
        ) from None
    except OSError as error:
        raise OutputError(f"cannot write '{lock}': {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()  # before the lock is released: else another run's could be removed
        os.close(file)


def _take_lock(lock: Path) -> int:
    while True:
        file = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            _lock_file(file)
            if os.fstat(file).st_ino == lock.stat().st_ino:
                return file
        except FileNotFoundError:  # removed by the run that held it, and so was what we have locked
            pass
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _lock_file(file: int) -> None:
    """Lock an open file, without waiting.

    Raises:
        BlockingIOError: another one has locked it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            raise BlockingIOError from None
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks
        pass


def make_directory(path: Path) -> Path:
    """Create a directory for results and check that it can be written.

    Raises:
        OutputError: it cannot be created or written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".sdtc-{unique()}.part"
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
    temporary = path.with_name(f".{shorten(path.name, 80)}.{unique()}.part")
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


def visible_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder that match a pattern, sorted, without hidden ones.

    macOS leaves a ``._name.json`` beside every file that it copies to a disk of another system.
    """
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; the file is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
