"""Every file that qsmals leaves behind is written here: whole, synced and under its name only then."""

import errno
import gzip
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

GZIP_LEVEL = 6
HIDDEN_PREFIX = ".qsmals-"
HIDDEN_SUFFIX = ".partial"

# what file systems answer that cannot sync a folder (network shares, FUSE)
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.EBADF, errno.ENOTSUP, errno.ENOSYS, errno.EISDIR}


@contextmanager
def atomic(path: Path) -> Iterator[IO[bytes]]:
    """Open ``path`` for binary writing so that it appears complete or not at all.

    The bytes go to a hidden file in the same folder, are synced to disk and renamed. If the
    block, the sync or the rename raises (a full disk, a quota, a signal), the hidden file is
    removed and an older ``path`` stays as it was. The permissions are those that ``open`` would
    give under the caller's umask. The hidden name is short, so that every name the file system
    allows can be written, and random, so that processes on several machines do not collide.

    Raises
    ------
    OSError
        The folder cannot be made or written, or the disk is full; it names ``path``.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f"{HIDDEN_PREFIX}{os.getpid()}-{secrets.token_hex(6)}{HIDDEN_SUFFIX}")
    try:
        with hidden.open("xb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        hidden.replace(path)
    except BaseException as error:
        with suppress(OSError):
            hidden.unlink()
        if isinstance(error, OSError) and error.filename in (None, str(hidden)):
            raise type(error)(error.errno, error.strerror or str(error), str(path)) from error
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut, where the file system can do that."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        if error.errno in _NO_FOLDER_SYNC:
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(handle)


def sweep(folder: Path, *, recursive: bool = True, older_than_s: float = 0.0) -> list[Path]:
    """Remove the hidden files that writers killed in mid-write left in ``folder``; return them.

    Only for the holder of the subject's lock; in a folder that other processes write into,
    pass an age (``older_than_s``) that no write can reach.
    """
    pattern = f"{HIDDEN_PREFIX}*{HIDDEN_SUFFIX}"
    newest = time.time() - older_than_s
    removed = []
    for hidden in sorted(folder.rglob(pattern) if recursive else folder.glob(pattern)):
        with suppress(FileNotFoundError):
            if older_than_s == 0.0 or hidden.stat().st_mtime < newest:
                hidden.unlink()
                removed.append(hidden)
    return removed


@contextmanager
def _maybe_packed(path: Path, stream: IO[bytes]) -> Iterator[IO[bytes]]:
    """``stream`` itself, or for a name ending in ``.gz`` a gzip stream without time and name."""
    if not path.name.endswith(".gz"):
        yield stream
        return
    with gzip.GzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=stream, mtime=0) as packed:
        yield cast(IO[bytes], packed)


def write_bytes(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` atomically; a name ending in ``.gz`` is compressed reproducibly."""
    path = Path(path)
    with atomic(path) as stream, _maybe_packed(path, stream) as target:
        target.write(content)
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    return write_bytes(Path(path), text.encode())


def write_json(path: Path, content: Mapping[str, Any] | list[Any]) -> Path:
    """Write ``content`` as indented JSON, keys in the order given, NaN refused."""
    return write_text(Path(path), json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_image(path: Path, image: Any) -> Path:
    """Write a nibabel image (``.nii`` or ``.nii.gz``); equal images give equal bytes.

    The voxels are compressed as they come, without a copy of the whole file in memory, and
    ``image`` keeps the file it was loaded from.
    """
    path = Path(path)
    origin = image.file_map
    with atomic(path) as stream, _maybe_packed(path, stream) as target:
        file_map = type(image).make_file_map({"image": target, "header": target})
        try:
            image.to_file_map(file_map)
        finally:
            image.file_map = origin
    return path


def hash_file(path: Path, *, algorithm: str = "sha256") -> str:
    """Hexadecimal digest of the bytes of ``path``, read in blocks."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, algorithm).hexdigest()
