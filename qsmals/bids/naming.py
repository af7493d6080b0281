"""The grammar of BIDS file names: entities out of a name, and their order in a name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LABEL = re.compile(r"[A-Za-z0-9+]+")
IMAGE_EXTENSIONS = (".nii", ".nii.gz")
SCAN_ENTITIES = ("sub", "ses", "task", "acq", "ce", "rec", "run", "chunk")
"""Entities of a raw scan that the names of its derivatives may keep."""

ENTITY_ORDER = (
    *("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part"),
    *("from", "to", "mode", "hemi", "space", "chunk", "atlas", "seg", "scale", "res", "den", "label", "desc"),
)
"""Order of the entities in a file name (BIDS 1.11, with the transform's ``from``, ``to``, ``mode``)."""

PARTS = ("mag", "phase", "real", "imag")
_BARE_PARTS = {"mag": "mag", "magnitude": "mag", "phase": "phase", "real": "real", "imag": "imag", "imaginary": "imag"}


@dataclass(frozen=True)
class Name:
    """A file name taken apart.

    Attributes
    ----------
    entities : mapping of str to str
        Key to value in the order of the name, e.g. ``{"sub": "01", "echo": "1"}``.
    suffix, extension : str
        E.g. ``MEGRE`` and ``.nii.gz``.
    unknown : tuple of str
        Pieces that are not ``key-label``; a file with any has no BIDS name.
    """

    entities: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""
    extension: str = ""
    unknown: tuple[str, ...] = ()


def parse_name(name: str) -> Name:
    """Take a file name apart.

    A bare ``phase``, ``mag``, ``real`` or ``imag`` (older names such as ``sub-01_phase_GRE``) is read
    as ``part-``.

    Examples
    --------
    >>> parse_name("sub-01_echo-2_part-mag_MEGRE.nii.gz").entities
    {'sub': '01', 'echo': '2', 'part': 'mag'}
    """
    stem, dot, rest = name.partition(".")
    *pieces, suffix = stem.split("_")
    entities: dict[str, str] = {}
    unknown = []
    for piece in pieces:
        key, dash, value = piece.partition("-")
        if not dash and piece in _BARE_PARTS:
            entities["part"] = _BARE_PARTS[piece]
        elif dash and key.isascii() and key.isalpha() and LABEL.fullmatch(value) and key not in entities:
            entities[key] = value
        else:
            unknown.append(piece)
    return Name(entities, suffix, dot + rest, tuple(unknown))


def build_name(entities: Mapping[str, str], suffix: str, extension: str) -> str:
    """File name of ``entities`` in BIDS order; a value that is not a BIDS label is a ValueError.

    Examples
    --------
    >>> build_name({"desc": "brain", "sub": "01", "space": "MEGRE"}, "mask", ".nii.gz")
    'sub-01_space-MEGRE_desc-brain_mask.nii.gz'
    """
    return f"{build_prefix(entities)}_{suffix}{extension}"


def build_prefix(entities: Mapping[str, str]) -> str:
    """The entities joined in BIDS order, without suffix.

    Examples
    --------
    >>> build_prefix({"run": "1", "sub": "01", "ses": "A"})
    'sub-01_ses-A_run-1'
    """
    for key, value in entities.items():
        if key not in ENTITY_ORDER:
            raise ValueError(f"{key} is no BIDS entity that qsmals writes; there are {', '.join(ENTITY_ORDER)}")
        if not LABEL.fullmatch(value):
            raise ValueError(f"{value!r} cannot be the value of {key}-: letters, digits and + only")
    return "_".join(f"{key}-{entities[key]}" for key in ENTITY_ORDER if key in entities)


def natural_key(text: str | Path) -> list[tuple[int, int | str]]:
    """Sort key in which ``run-10`` follows ``run-2``.

    Examples
    --------
    >>> sorted(["run-10", "run-2"], key=natural_key)
    ['run-2', 'run-10']
    """
    pieces = re.split(r"([0-9]+)", str(text))
    return [(0, int(piece)) if piece.isdecimal() and piece.isascii() else (1, piece) for piece in pieces]


def strip_prefix(label: str, key: str) -> str:
    """``sub-01`` and ``01`` both give ``01`` (``key`` is ``sub`` or ``ses``)."""
    return label.strip().removeprefix(f"{key}-")
