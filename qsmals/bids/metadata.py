"""JSON sidecars of raw images, merged by the inheritance principle of BIDS."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from qsmals.bids.naming import Name, parse_name


@dataclass(frozen=True)
class Sidecar:
    """A JSON file: its content, or why it cannot be read."""

    path: Path
    content: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    @cached_property
    def name(self) -> Name:
        """The file name taken apart."""
        return parse_name(self.path.name)

    def applies_to(self, image: Name) -> bool:
        """Whether the suffix is the image's and every entity of the sidecar is the image's."""
        return self.name.suffix == image.suffix and self.name.entities.items() <= image.entities.items()


class SidecarReader:
    """Reads and remembers the sidecars of a data set, folder by folder.

    Parameters
    ----------
    root : Path
        Top of the data set; sidecars above it are never read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._folders: dict[Path, list[Path]] = {}
        self._sidecars: dict[Path, Sidecar] = {}
        self._applicable: dict[Path, list[Sidecar]] = {}

    def applicable(self, image: Path) -> list[Sidecar]:
        """Sidecars of ``image``, the most general first."""
        if image not in self._applicable:
            self._applicable[image] = self._find_applicable(image)
        return self._applicable[image]

    def _find_applicable(self, image: Path) -> list[Sidecar]:
        name = parse_name(image.name)
        found = []
        for folder in self._levels(image):
            here = [path for path in self._json_files(folder) if path.name.endswith(f"{name.suffix}.json")]
            matching = [sidecar for sidecar in map(self.read, here) if sidecar.applies_to(name)]
            found += sorted(matching, key=lambda s: (len(s.name.entities), s.path.name))
        return found

    def read(self, path: Path) -> Sidecar:
        """The content of one JSON file; unreadable files come back with their ``problem``."""
        if path not in self._sidecars:
            self._sidecars[path] = read_sidecar(path)
        return self._sidecars[path]

    def _levels(self, image: Path) -> list[Path]:
        """Folders from the root down to the image's own."""
        own = image.parent
        below = [own, *own.parents]
        return list(reversed(below[: below.index(self._root) + 1]))

    def _json_files(self, folder: Path) -> list[Path]:
        if folder not in self._folders:
            self._folders[folder] = sorted(folder.glob("*.json"))
        return self._folders[folder]


def read_sidecar(path: Path) -> Sidecar:
    """Read a JSON object; what is wrong with the file, if anything, is told in ``problem``."""
    if not path.is_file():
        return Sidecar(path, problem="is not a readable file" + (" (a broken link)" if path.is_symlink() else ""))
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        return Sidecar(path, problem=f"cannot be read as JSON ({type(error).__name__}: {error})")
    if not isinstance(content, dict):
        return Sidecar(path, problem=f"holds a JSON {type(content).__name__} where BIDS wants an object")
    return Sidecar(path, content)


def merged(sidecars: list[Sidecar]) -> dict[str, Any]:
    """One dictionary in which the more specific sidecar wins."""
    result: dict[str, Any] = {}
    for sidecar in sidecars:
        result.update(sidecar.content)
    return result


def constant_fields(files: list[Mapping[str, Any]]) -> dict[str, Any]:
    """Fields that every file has with the same value, in the first file's order."""
    if not files:
        return {}
    first, *others = files
    return {key: value for key, value in first.items() if all(key in o and o[key] == value for o in others)}
