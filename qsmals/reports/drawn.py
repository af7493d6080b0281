"""The figures of a scan as files: drawn, kept where what they were drawn from is gone, and recorded beside them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from qsmals.engine.files import write_bytes, write_json
from qsmals.reports.collect import NAMES, OUTPUTS, Scan
from qsmals.reports.gallery import Drawing, drawings

MANIFEST = "desc-figures.json"
"""Beside the figures of a scan: what is said of each on the page, and which images it was drawn from."""

IMAGE_WORDS = NAMES | {
    **{"magnitude": "magnitude", "phase": "phase", "unwrapped": "unwrapped phase", "quality": "phase quality"},
    "noise": "noise of the total field",
    **{"t1w": "T1w image", "t1w_labels": "labels on the T1w image", "t1w_on_gre": "T1w image on the gradient echo"},
    **{"tissues": "tissues of the T1w image", "tissues_on_gre": "tissues on the gradient echo"},
    **{"t1w_on_template": "T1w image on the template", "template": "template"},
}


@dataclass(frozen=True)
class Figure:
    """An entry of the manifest: file name, section and words of a figure, and roles of the images it was drawn from."""

    name: str
    section: str
    title: str
    caption: str
    roles: tuple[str, ...]


@dataclass(frozen=True)
class Shown:
    """A figure that there is: its entry, its file, and in words those images it was drawn from that are gone."""

    figure: Figure
    path: Path
    lost: str = ""


def draw_figures(
    scan: Scan, figure_dir: Path, *, age: float | None, drawn: bool = False, hurry: bool = False
) -> tuple[list[Shown], list[str]]:
    """Draw a scan's figures; one that lacks an image it was drawn from before stays as it was, file and words.

    Parameters
    ----------
    scan : Scan
    figure_dir : Path
        Where they are written, with their manifest.
    age : float or None
        Of the subject, years.
    drawn : bool
        Whether the files in the manifest are of the very images that are there now: these are not drawn again.
    hurry : bool
        Whether to draw nothing, and to leave the manifest as it is.

    Returns
    -------
    list of Shown
        In the order of the page.
    list of str
        What could not be drawn, or was drawn without an image that the facts name; one sentence each.

    Raises
    ------
    OSError
        A figure or the manifest cannot be written.
    """
    manifest = figure_dir / f"{scan.prefix}_{MANIFEST}"
    earlier = _read_manifest(manifest)
    whole = _with_lost_images(scan, earlier)
    possible = {drawing.name: drawing for drawing in drawings(scan, age=age)}
    shown, faults = [], []
    for wanted in drawings(whole, age=age):
        path = figure_dir / f"{scan.prefix}_{wanted.name}"
        kept = earlier.get(path.name) if path.exists() else None
        lost = [role for role in (kept.roles if kept else ()) if role in whole.files and role not in scan.files]
        figure, fault = kept, ""
        if not (hurry or (kept and (lost or drawn))):
            figure, fault = _draw(possible.get(wanted.name), path)
        if not hurry and (words := fault or _shortfall(scan, wanted, figure)):
            faults.append(f"{scan.prefix}: {words}")
        if figure:
            shown.append(Shown(figure, path, _listed(lost) if lost else ""))
    if not hurry and (shown or earlier):
        write_json(manifest, [asdict(entry.figure) for entry in shown])
    return shown, faults


def _read_manifest(path: Path) -> dict[str, Figure]:
    """Figures of an earlier writing by file name; none where there is no manifest that can be read."""
    try:
        entries = [Figure(**(entry | {"roles": tuple(entry["roles"])})) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {figure.name: figure for figure in entries}


def _with_lost_images(scan: Scan, earlier: Mapping[str, Figure]) -> Scan:
    """The scan as it was with the images that are gone.

    These are the images that its facts name, the outputs that a figure was drawn from, and, where the last run did not
    finish and so names none, every other image that a figure was drawn from.
    """
    unfinished = scan.facts is None or scan.failed
    roles = {role for figure in earlier.values() for role in figure.roles}
    lost = {role for role in roles if unfinished or role in OUTPUTS or role.startswith("labels:")}
    lost |= _named(scan)
    return replace(scan, files=dict(sorted((dict.fromkeys(lost, Path()) | dict(scan.files)).items())))


def _named(scan: Scan) -> set[str]:
    """Roles of the images that the facts name."""
    return {role for role, path in scan.facts.images.items() if path} if scan.facts else set()


def _draw(drawing: Drawing | None, path: Path) -> tuple[Figure | None, str]:
    """The figure that was written, or why there is none."""
    if drawing is None:
        return None, ""
    try:
        image = drawing.draw()
    except Exception as error:  # a damaged image must not take the rest of the page with it
        return None, f"figure “{drawing.title}” could not be drawn: {error}"
    write_bytes(path, image)
    return Figure(path.name, drawing.section, drawing.title, drawing.caption, drawing.roles), ""


def _shortfall(scan: Scan, wanted: Drawing, figure: Figure | None) -> str:
    """What a finished scan's figure lacks of the images that the facts name; empty for nothing."""
    shown = figure.roles if figure else ()
    lacking = [r for r in wanted.roles if r in _named(scan) and r not in scan.files and r not in shown]
    if scan.failed or not lacking:
        return ""
    if figure is None:
        return f"figure “{wanted.title}” (the images that the facts name no longer exist)"
    return f"figure “{wanted.title}” is drawn without {_listed(lacking)} (named by the facts, no longer there)"


def _listed(roles: Sequence[str]) -> str:
    """Images in running text."""
    words = [IMAGE_WORDS.get(role, role.replace("labels:", "region labels, ")) for role in roles]
    return " and ".join(part for part in (", ".join(words[:-1]), words[-1]) if part)
