"""Take the clock out of ITK's composite transform files, and see whether one is whole.

ITK writes composite transforms as HDF5, whose object headers hold the time of writing (four times of four
bytes, each header closed by a checksum), so that equal transforms have unequal bytes. Format: HDF5 File
Format Specification 3.0, section IV.A.1.b, "Data Object Header Prefix, version 2".
"""

import mmap
import struct
from pathlib import Path

SIGNATURE = b"OHDR\x02"
HAS_TIMES, HAS_LIMITS = 0x20, 0x10
WORD = 0xFFFFFFFF


FORMAT = b"\x89HDF\r\n\x1a\n"
END_AT = {0: 40, 1: 44, 2: 28, 3: 28}
"""Where a superblock of each version has the end of the file (section II), with addresses of eight bytes."""

TRANSFORMS = b"TransformGroup"
"""ITK's name of what holds the transforms."""


def composite_doubt(path: Path) -> str:
    """Why a file cannot be a transform that ITK wrote as HDF5; empty where nothing speaks against it.

    The file is looked at from its head to its end, not taken apart.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(64)
            if head[:8] != FORMAT or len(head) < 64 or head[8] not in END_AT:
                return "it is no HDF5 file"
            end = int.from_bytes(head[END_AT[head[8]] :][:8], "little")
            if size < end:
                return f"it is cut off: {size} bytes are left of {end}"
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return "" if content.find(TRANSFORMS) >= 0 else "it holds no transform of ITK"
    except OSError as error:
        return f"it cannot be read ({error})"


def clear_times(path: Path) -> None:
    """Set every time in the object headers of an HDF5 file to 0 and mend the checksums, in place.

    Headers whose checksum does not hold are data that only looks like a header, and stay as they are.
    """
    content = bytearray(path.read_bytes())
    start = content.find(SIGNATURE)
    while start >= 0:
        _clear_header(content, start)
        start = content.find(SIGNATURE, start + 1)
    path.write_bytes(bytes(content))


def _clear_header(content: bytearray, start: int) -> None:
    """Clear the times of the header that begins at ``start``."""
    flags = content[start + 5] if start + 5 < len(content) else 0
    if not flags & HAS_TIMES:
        return
    width = 1 << (flags & 3)
    size_at = start + 22 + (4 if flags & HAS_LIMITS else 0)
    end = size_at + width + int.from_bytes(content[size_at : size_at + width], "little")
    if end + 4 > len(content) or content[end : end + 4] != _checksum(content[start:end]):
        return
    content[start + 6 : start + 22] = bytes(16)
    content[end : end + 4] = _checksum(content[start:end])


def _checksum(data: bytes | bytearray) -> bytes:
    """Bob Jenkins' lookup3 hash (``hashlittle``, seed 0) as four little-endian bytes.

    Examples
    --------
    >>> _checksum(b"Four score and seven years ago").hex()
    '51057717'
    """
    a = b = c = (0xDEADBEEF + len(data)) & WORD
    blocks = max((len(data) - 1) // 12, 0)
    for k in range(blocks):
        x, y, z = struct.unpack_from("<3I", data, 12 * k)
        a, b, c = _mix((a + x) & WORD, (b + y) & WORD, (c + z) & WORD)
    rest = bytes(data[12 * blocks :])
    if rest:
        x, y, z = struct.unpack("<3I", rest.ljust(12, b"\0"))
        c = _final((a + x) & WORD, (b + y) & WORD, (c + z) & WORD)
    return struct.pack("<I", c)


def _rotate(x: int, k: int) -> int:
    return ((x << k) | (x >> (32 - k))) & WORD


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """Mix three words, reversibly."""
    for shifts in ((4, 6, 8), (16, 19, 4)):
        a = ((a - c) & WORD) ^ _rotate(c, shifts[0])
        c = (c + b) & WORD
        b = ((b - a) & WORD) ^ _rotate(a, shifts[1])
        a = (a + c) & WORD
        c = ((c - b) & WORD) ^ _rotate(b, shifts[2])
        b = (b + a) & WORD
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    """Mix three words into one."""
    c = ((c ^ b) - _rotate(b, 14)) & WORD
    a = ((a ^ c) - _rotate(c, 11)) & WORD
    b = ((b ^ a) - _rotate(a, 25)) & WORD
    c = ((c ^ b) - _rotate(b, 16)) & WORD
    a = ((a ^ c) - _rotate(c, 4)) & WORD
    b = ((b ^ a) - _rotate(a, 14)) & WORD
    return ((c ^ b) - _rotate(b, 24)) & WORD
