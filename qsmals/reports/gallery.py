"""Which figures a subject's page has, and what each needs."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import nibabel as nib
import numpy as np

from qsmals.bids.names import PARTS_OF
from qsmals.qc.limits import LIMITS
from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA
from qsmals.reports import figures
from qsmals.reports.assess import Quality
from qsmals.reports.collect import RegionTable, Scan
from qsmals.reports.figures import Panel, Scale, Volume
from qsmals.reports.published import ALARM_LIMITS, EXPECTED, IRON, SD_WORDS, area_words, expected_at, group_words
from qsmals.reports.tables import lost_at_the_rim

DEEP = ("caudate", "putamen", "pallidum", "thalamus", "substantia_nigra", "red_nucleus")
PARTS_CAPTION = (
    "Lines are parts of nuclei, as of pallidum and thalamus; nuclei that have no parts are bright here without lines."
)
CHI_SCALE = Scale(-0.1, 0.2, "susceptibility (ppm)")
CHI_COLUMNS, CHI_AXIAL_ROWS = 5, 2
"""Fewer and larger slices than elsewhere, and two rows of axial ones: this is the figure that a reader judges."""

WANTED = (
    *(("substantia_nigra", 2, 0.5), ("pallidum", 2, 0.5), ("precentral", 2, 0.75), ("paracentral", 2, 0.9)),
    *(("paracentral", 2, 0.5), ("thalamus", 2, 0.6), ("red_nucleus", 2, 0.5), ("dentate", 2, 0.5)),
    *(("precentral", 2, 0.4), ("caudate", 2, 0.6)),
    *(("pallidum", 1, 0.5), ("precentral", 1, 0.5), ("substantia_nigra", 1, 0.5), ("caudate", 1, 0.75)),
    *(("lateral_occipital", 1, 0.5), ("dentate", 1, 0.5)),
)
"""Slices that the mosaic of susceptibility goes through, the most wanted first: part of a region's name, axis, and the
share of the region's voxels below the slice, or behind it. The hand knob lies in the upper part of the precentral
gyrus, the leg in the uppermost part of the paracentral; the head of the caudate in its front quarter."""

PHASE_SCALE = Scale(-np.pi, np.pi, "phase (rad)")
SHOWN_JUMPS_ML = 0.1
"""Smaller groups of residual jumps are usual, a few voxels in veins or next to the sinuses."""

TOTAL_PPM, LOCAL_PPM = 0.5, 0.05
QUALITY_SCALE = Scale(0, 1, "phase quality (0 to 1)", "viridis")


class Images:
    """The volumes of one scan, read when a figure asks for them."""

    def __init__(self, scan: Scan) -> None:
        self.prefix = scan.prefix
        self.files = scan.files
        self.b0_tesla = scan.facts.b0_tesla if scan.facts else None

    def has(self, *roles: str) -> bool:
        """Whether each role has a file."""
        return all(role in self.files for role in roles)

    def volume(self, role: str, echo: int | None = None) -> Volume:
        """A volume, or one echo of it where the file has several."""
        image = nib.load(self.files[role])
        data = np.asarray(image.dataobj[..., echo] if image.ndim > 3 and echo is not None else image.dataobj)
        return Volume.from_array(data, image.affine)

    @cached_property
    def mask(self) -> Volume | None:
        """The brain mask, where there is one."""
        return self.volume("mask") if self.has("mask") else None

    @cached_property
    def brain(self) -> Volume | None:
        """The brain of the T1w image, all of it, on the grid of the mask."""
        if self.mask is None or not self.has("tissues_on_gre"):
            return None
        tissues = self.volume("tissues_on_gre")
        same_grid = tissues.data.shape == self.mask.data.shape
        return Volume(tissues.data > 0, tissues.affine) if same_grid else None

    @cached_property
    def measured(self) -> Volume | None:
        """Where the map has values; the mask where there is no map on its grid."""
        if self.mask is None or not self.has("chi"):
            return self.mask
        chi = self.volume("chi")
        inside = np.isfinite(chi.data) & (chi.data != 0)
        return Volume(inside, chi.affine) if chi.data.shape == self.mask.data.shape else self.mask

    def inside(self, role: str) -> Volume:
        """A map with what the mask leaves out shown as background."""
        volume = self.volume(role)
        if self.mask is None or self.mask.data.shape != volume.data.shape:
            return volume
        return Volume(np.where(self.mask.data != 0, volume.data, np.nan), volume.affine)

    def field(self, role: str, limit_ppm: float) -> tuple[Volume, Scale]:
        """A field map in ppm where the field strength is known, else in Hz with the range of 3 T."""
        volume, name = self.inside(role), role.replace("_", " ")
        if self.b0_tesla is None:
            limit_hz = limit_ppm * GAMMA_BAR_MHZ_PER_TESLA * 3
            return volume, Scale(-limit_hz, limit_hz, f"{name} (Hz)")
        hz_per_ppm = GAMMA_BAR_MHZ_PER_TESLA * self.b0_tesla
        label = f"{name} (ppm; 1 ppm = {hz_per_ppm:.1f} Hz)"
        return Volume(volume.data / hz_per_ppm, volume.affine), Scale(-limit_ppm, limit_ppm, label)

    def grey(self, role: str, echo: int | None = None) -> tuple[Volume, Scale]:
        """An image without a unit, from zero to nearly its brightest in the brain."""
        volume = self.volume(role, echo)
        same_grid = self.mask is not None and self.mask.data.shape == volume.data.shape
        values = volume.data[self.mask.data != 0] if self.mask is not None and same_grid else volume.data
        values = values[np.isfinite(values)]
        high = float(np.percentile(values, 99.5)) if values.size else 1.0
        return volume, Scale(0, high if high > 0 else 1.0, "signal (arbitrary)")

    @property
    def labels(self) -> dict[str, str]:
        """Atlas to role of its label image."""
        return {role.removeprefix("labels:"): role for role in self.files if role.startswith("labels:")}

    @property
    def first_labels(self) -> tuple[str, ...]:
        """Role of the first atlas's label image; empty where there is none."""
        return tuple(self.labels.values())[:1]


@dataclass(frozen=True)
class Drawing:
    """A figure that can be drawn.

    Attributes
    ----------
    section : str
        Where it stands on the page.
    name : str
        Its file name after the scan's prefix.
    title, caption : str
        Its words.
    draw : callable
        Makes it.
    roles : tuple of str
        Of the images that it is drawn from; none for one of tables.
    """

    section: str
    name: str
    title: str
    caption: str
    draw: Callable[[], bytes]
    roles: tuple[str, ...] = ()


def drawings(scan: Scan, *, age: float | None = None) -> Iterator[Drawing]:
    """Every figure for which the scan has the files, in the order of the page.

    Parameters
    ----------
    scan : Scan
    age : float, optional
        Of the subject, years: published values are scaled to it where iron is known to follow age.
    """
    images = Images(scan)
    for drawing in _all_drawings(images, scan, age):
        yield replace(drawing, roles=tuple(role for role in drawing.roles if images.has(role)))


def _all_drawings(images: Images, scan: Scan, age: float | None) -> Iterator[Drawing]:
    """The figures of all parts of the page; their roles are of all images that may be in them."""
    quality = scan.quality
    yield from _phase_drawings(images, _named_echoes(quality))
    if quality and quality.jump_centre_mm and quality.values.get("jump_cluster", 0.0) >= SHOWN_JUMPS_ML:
        yield from _jump_drawings(images, quality.jump_centre_mm, quality.values["jump_cluster"])
    yield from _background_drawings(images)
    yield from _map_drawings(images)
    yield from _viewer_drawing(images)
    yield from _label_drawings(images, rim=RIM if math.isfinite(lost_at_the_rim(scan)[0]) else "")
    yield from _template_drawings(images)
    for table in scan.tables:
        if table.quantity == "Chimap":
            yield from _region_drawings(table, age)


OUTLINE = "The orange line encloses where the map has values."
JUMP_ROLES = ("unwrapped", "total_field", "quality", "mask")
FIELD_ROLES = (*JUMP_ROLES, "noise")
MEASURED = (
    "Orange: where the map has values, the voxels of the file desc-brain_mask. Brain outside that line is lost to "
    "every map and table."
)
WHOLE_BRAIN = " Blue, under it: the brain of the T1w image; what lies between the lines has no reliable phase{rim}."
RIM = ", or lies at the rim where background and brain cannot be told apart"
AIR_SHARE = 0.1
"""Of the brain's median signal, shown white in the air: ghosts that count begin at half of it."""
NOISE_SCALE = Scale(0, 10, "noise of the total field (ppb)", "viridis")
"""Up to the limit beyond which a scan fails."""


def _phase_drawings(images: Images, named: Mapping[str, int]) -> Iterator[Drawing]:
    if images.has("magnitude", "phase"):
        yield Drawing(
            "phase",
            "desc-echoes_MEGRE.png",
            "First and last echo",
            f"Magnitude (arbitrary unit) and phase (−π to π rad) before unwrapping. {_named_words(named)}{OUTLINE}",
            lambda: _echoes(images, named),
            ("magnitude", "phase", "mask"),
        )
    if images.has("magnitude", "mask"):
        yield Drawing(
            "phase",
            "desc-air_MEGRE.png",
            "Air around the head, first echo",
            f"White is {100 * AIR_SHARE:.0f} % of the brain's signal and more. Copies of the head beside it are "
            f"ghosts, streaks are motion or ghosts; even grey is noise. Wrapped anatomy at the edges of the field of "
            f"view is neither. {OUTLINE}",
            lambda: _air(images),
            ("magnitude", "mask"),
        )
    if images.has("total_field"):
        yield Drawing(
            "phase",
            "desc-field_MEGRE.png",
            "Unwrapped phase and total field",
            f"Phase in rad, field in {_field_words(images, TOTAL_PPM)}, phase quality from 0 to 1. Sudden steps from "
            "dark to bright that follow no anatomy are jumps of 2π. "
            f"{NOISE_WORDS if images.has('noise') else ''}{OUTLINE}",
            lambda: _field_panels(images),
            FIELD_ROLES,
        )


NOISE_WORDS = "The noise, 0 to 10 ppb, is large where signal is weak, and where the echoes do not agree on one field. "


def _named_echoes(quality: Quality | None) -> dict[str, int]:
    """What measures beyond their limits say of an echo that is neither the first nor the last; its number from 0."""
    if quality is None:
        return {}
    last = max((len(column) for column in quality.echoes.values()), default=0) - 1
    found = {}
    for measure, words in (("echo_signal", "weakest"), ("phase_noise", "noisiest")):
        number = re.match(r"echo (\d+)\b", quality.details.get(measure, ""))
        beyond = LIMITS[measure].level(quality.values.get(measure, math.nan))
        if number and beyond and 0 < int(number[1]) - 1 < last:
            found[words] = int(number[1]) - 1
    return found


def _named_words(named: Mapping[str, int]) -> str:
    """Which echoes stand beside the first and the last, as a sentence."""
    words = [f"echo {echo + 1}, the {word} by the measures" for word, echo in named.items()]
    sentence = f"Beside the first and last echo: {'; '.join(words)}. " if words else ""
    return sentence + ("The weakest has the first echo's range of grey. " if "weakest" in named else "")


def _air(images: Images) -> bytes:
    """The first echo's magnitude with the range of the air."""
    volume, mask = images.volume("magnitude", 0), images.mask
    assert mask is not None
    level = float(np.median(volume.data[mask.data != 0])) if (mask.data != 0).any() else 0.0
    percent = Volume(100 * volume.data / level, volume.affine) if level > 0 else volume
    scale = Scale(0, 100 * AIR_SHARE, "signal (% of the brain's)")
    return figures.planes(percent, scale=scale, title=f"{images.prefix}: Air, first echo", outline=mask, through=mask)


def _noise(images: Images) -> Panel:
    """Standard deviation of the total field, ppb; voxels without a field are at the top of the range."""
    noise = images.inside("noise")
    ppb = 1000 * np.nan_to_num(noise.data, nan=np.nan, posinf=NOISE_SCALE.high)
    return Panel(Volume(ppb, noise.affine), NOISE_SCALE, "noise of the total field")


def _echoes(images: Images, named: Mapping[str, int]) -> bytes:
    first, scale = images.grey("magnitude", 0)
    last, last_scale = images.grey("magnitude", -1)
    columns = [
        Panel(first, scale, "magnitude, first echo"),
        Panel(last, last_scale, "magnitude, last echo"),
        Panel(images.volume("phase", 0), PHASE_SCALE, "phase, first echo"),
        Panel(images.volume("phase", -1), PHASE_SCALE, "phase, last echo"),
    ]
    for word, echo in sorted(named.items(), key=lambda item: item[0] != "noisiest"):  # each beside its like
        role, at, shown = ("magnitude", 1, scale) if word == "weakest" else ("phase", 3, PHASE_SCALE)
        columns.insert(at, Panel(images.volume(role, echo), shown, f"{role}, echo {echo + 1} ({word})"))
    return figures.panels(columns, title=f"{images.prefix}: First and last echo", outline=images.mask)


def _field_words(images: Images, limit_ppm: float) -> str:
    """Unit and range of a field's grey values, as :meth:`Images.field` chooses them."""
    if images.b0_tesla is None:
        return f"Hz (±{limit_ppm * GAMMA_BAR_MHZ_PER_TESLA * 3:.3g})"
    return f"ppm (±{limit_ppm:g})"


def _unwrapped(images: Images, echo: int, name: str) -> Panel:
    """Unwrapped phase of an echo, in whole half turns that hold nearly all of the brain."""
    volume = images.volume("unwrapped", echo)
    inside = images.mask is not None and images.mask.data.shape == volume.data.shape
    values = np.abs(volume.data[images.mask.data != 0] if inside and images.mask is not None else volume.data)
    values = values[np.isfinite(values)]
    limit = float(np.ceil(np.percentile(values, 99) / np.pi) * np.pi) if values.size else np.pi
    return Panel(volume, Scale(-max(limit, np.pi), max(limit, np.pi), "phase (rad)"), f"unwrapped phase, {name}")


def _field_panels(images: Images) -> bytes:
    columns = []
    if images.has("unwrapped"):
        columns += [_unwrapped(images, 0, "first echo"), _unwrapped(images, -1, "last echo")]
    columns.append(Panel(*images.field("total_field", TOTAL_PPM), "total field"))
    if images.has("quality"):
        columns.append(Panel(images.inside("quality"), QUALITY_SCALE, "phase quality"))
    if images.has("noise"):
        columns.append(_noise(images))
    return figures.panels(columns, title=f"{images.prefix}: Unwrapped phase and total field", outline=images.mask)


def _jump_drawings(images: Images, centre: tuple[float, float, float], cluster_ml: float) -> Iterator[Drawing]:
    if images.has("unwrapped"):
        yield Drawing(
            "phase",
            "desc-jumps_MEGRE.png",
            "Largest group of residual jumps of 2π",
            f"Slices through its centre (ring); {cluster_ml:.2f} ml. Phase in rad. A few voxels in veins or next to "
            "the sinuses are usual.",
            lambda: _jump_panels(images, centre),
            JUMP_ROLES,
        )


def _jump_panels(images: Images, centre: tuple[float, float, float]) -> bytes:
    columns = [_unwrapped(images, 0, "first echo"), _unwrapped(images, -1, "last echo")]
    if images.has("total_field"):
        columns.append(Panel(*images.field("total_field", TOTAL_PPM), "total field"))
    if images.has("quality"):
        columns.append(Panel(images.inside("quality"), QUALITY_SCALE, "phase quality"))
    title = f"{images.prefix}: Residual jumps of 2π"
    return figures.panels(columns, title=title, outline=images.mask, through_mm=centre)


def _background_drawings(images: Images) -> Iterator[Drawing]:
    if images.has("total_field", "local_field"):
        yield Drawing(
            "background",
            "desc-background_fieldmap.png",
            "Background and local field",
            "The background comes from air, bone and everything else outside the brain; what is left of it in the "
            f"local field shows as slow gradients at the border. Total and background field in "
            f"{_field_words(images, TOTAL_PPM)}, local field in {_field_words(images, LOCAL_PPM)}, susceptibility "
            f"from −0.1 to 0.2 ppm. {OUTLINE}",
            lambda: _background_panels(images),
            ("total_field", "local_field", "chi", "mask"),
        )
    if images.has("local_field"):
        yield Drawing(
            "background",
            "desc-local_fieldmap.png",
            "Local field",
            "What the susceptibility map is made from: dipole patterns around veins and nuclei. Grey in "
            f"{_field_words(images, LOCAL_PPM)}.",
            lambda: _field_mosaic(images),
            ("local_field", "mask"),
        )


def _background_panels(images: Images) -> bytes:
    total, scale = images.field("total_field", TOTAL_PPM)
    local, local_scale = images.field("local_field", LOCAL_PPM)
    background = Volume(total.data - local.data, total.affine)
    columns = [
        Panel(total, scale, "total field"),
        Panel(background, replace(scale, label=scale.label.replace("total", "background")), "background field"),
        Panel(local, local_scale, "local field"),
    ]
    if images.has("chi"):
        columns.append(Panel(images.inside("chi"), CHI_SCALE, "susceptibility"))
    return figures.panels(columns, title=f"{images.prefix}: Background and local field", outline=images.mask)


def _map_drawings(images: Images) -> Iterator[Drawing]:
    if images.has("chi"):
        roles = ("chi", "mask", *images.first_labels)
        yield Drawing(THUMBNAIL, "desc-thumbnail_Chimap.png", "Susceptibility", "", lambda: _thumbnail(images), roles)
        yield Drawing(
            "maps",
            "desc-mosaic_Chimap.png",
            "Susceptibility",
            "Grey from −0.1 to 0.2 ppm for every subject; bright is paramagnetic (iron), dark is diamagnetic (myelin). "
            "Veins are bright as well, as the superior sagittal sinus along the midline at the top and the back. "
            "Where the labels name nuclei and motor cortex, slices go through them, as the words in their corners say.",
            lambda: figures.mosaic(
                images.inside("chi"),
                scale=CHI_SCALE,
                title=f"{images.prefix}: Susceptibility",
                around=images.mask,
                columns=CHI_COLUMNS,
                axial_rows=CHI_AXIAL_ROWS,
                wanted=_wanted(images),
            ),
            roles,
        )
    if images.has("r2star"):
        yield Drawing(
            "maps",
            "desc-mosaic_R2starmap.png",
            "R2*",
            f"Grey from 0 to {_r2star_high(images):g} 1/s, the same for every subject at one field strength.",
            lambda: _r2star(images),
            ("r2star", "mask"),
        )


THUMBNAIL = "card"
"""Where the page shows the small picture of the map: not among the sections but on the first card."""


def _wanted(images: Images) -> list[figures.Place]:
    """Slices through the regions of :data:`WANTED` that the first atlas on the map's grid names."""
    found = []
    for role in images.first_labels:
        labels, names = images.volume(role).data, _label_names(images.files[role])
        for part, axis, share in WANTED:
            chosen = [value for value, name in names.items() if part in name.replace("-", "_")]
            inside = np.isin(labels, chosen)
            if chosen and inside.any() and labels.shape == images.volume("chi").data.shape:
                places = np.nonzero(inside)[axis]
                found.append(figures.Place(axis, int(np.quantile(places, share)), part.replace("_", " ")))
    return found


def _thumbnail(images: Images) -> bytes:
    """The map in one axial slice, through the pallidum where it is known."""
    chi = images.inside("chi")
    around = images.mask if images.mask is not None else chi
    through = [place.at for place in _wanted(images) if (place.axis, place.words) == (2, "pallidum")]
    present = np.flatnonzero((np.nan_to_num(around.data) != 0).any(axis=(0, 1)))
    middle = int(present.mean()) if present.size else chi.data.shape[2] // 2
    return figures.thumbnail(chi, scale=CHI_SCALE, around=around, axial=through[0] if through else middle)


def _field_mosaic(images: Images) -> bytes:
    volume, scale = images.field("local_field", LOCAL_PPM)
    return figures.mosaic(volume, scale=scale, title=f"{images.prefix}: Local field", around=images.mask)


def _r2star_high(images: Images) -> float:
    """End of the scale of R2*, 1/s."""
    return max(round(17 * (images.b0_tesla or 3.0), -1), 20.0)


def _r2star(images: Images) -> bytes:
    scale = Scale(0, _r2star_high(images), "R2* (1/s)")
    return figures.mosaic(images.inside("r2star"), scale=scale, title=f"{images.prefix}: R2*", around=images.mask)


def _label_drawings(images: Images, *, rim: str) -> Iterator[Drawing]:
    if images.has("magnitude", "mask"):
        yield Drawing(
            "registration",
            "desc-mask_MEGRE.png",
            "Brain and mapped voxels on the gradient echo",
            MEASURED + (WHOLE_BRAIN.format(rim=rim) if images.has("tissues_on_gre") else ""),
            lambda: _mask_mosaic(images),
            ("magnitude", "mask", "tissues_on_gre", "chi"),
        )
    for background, role, on, name in TISSUE_CONTOURS:
        if images.has(background, role):
            yield Drawing(
                "registration",
                name,
                f"Grey and white matter on {on}",
                "Lines of the T1w image's segmentation: green around grey matter, orange around white matter. "
                "They should follow the folds that the image shows.",
                partial(_tissues, images, background, role),
                (background, role, "mask"),
            )
    if images.has("t1w", "t1w_labels"):
        yield _contours(images, "T1w", "desc-regions_T1w.png", "t1w", "t1w_labels")
    elif images.has("t1w_on_gre") and images.labels:
        yield _contours(images, "T1w", "desc-regions_T1w.png", "t1w_on_gre", *images.first_labels)
    for atlas, role in images.labels.items():
        yield from _atlas_drawings(images, atlas, role)


TISSUE_CONTOURS = (
    ("t1w", "tissues", "T1w", "desc-tissues_T1w.png"),
    ("magnitude", "tissues_on_gre", "the gradient echo", "desc-tissues_MEGRE.png"),
)
GREY_MATTER = 2
"""Segmentation's number of grey matter; white matter is the next, fluid the one before."""


def _tissues(images: Images, background: str, role: str) -> bytes:
    volume, scale = images.grey(background, 0)
    tissues = images.volume(role)
    matter = Volume(np.where(tissues.data >= GREY_MATTER, tissues.data, 0), tissues.affine)
    title = f"{images.prefix}: Grey and white matter"
    return figures.mosaic(volume, scale=scale, title=title, labels=matter, around=matter, columns=6)


def _template_drawings(images: Images) -> Iterator[Drawing]:
    """The subject and the template in the same slices, for the page to show in turn."""
    if images.has("template", "t1w_on_template"):
        for role, name, title in FLICKER:
            yield Drawing(
                "registration",
                name,
                title,
                "Both on the grid of the template. Ventricles, folds and borders should stay where they are.",
                partial(_on_template, images, role, title),
                ("t1w_on_template", "template"),
            )


FLICKER = (
    ("t1w_on_template", "desc-flicker1_T1w.png", "This subject on the template"),
    ("template", "desc-flicker2_T1w.png", "The template"),
)
"""Two figures that the page shows in turn."""


def _on_template(images: Images, role: str, title: str) -> bytes:
    volume, template = images.volume(role), images.volume("template")
    values = volume.data[(volume.data > 0) & np.isfinite(volume.data)]
    scale = Scale(0, float(np.percentile(values, 99.5)) if values.size else 1.0, "signal (arbitrary)")
    return figures.mosaic(volume, scale=scale, title=title, around=template, columns=6)


def _contours(images: Images, on: str, name: str, background: str, role: str) -> Drawing:
    """Borders of a label image over another image."""
    caption = (
        "The lines are the regions' borders; they should follow the cortex, the deep nuclei and the ventricles. Their "
        "colours tell neighbours apart and are no legend."
    )
    draw = partial(_labels_on, images, background, role)
    return Drawing("registration", name, f"Regions on {on}", caption, draw, (background, role, "mask"))


def _atlas_drawings(images: Images, atlas: str, role: str) -> Iterator[Drawing]:
    """Contours of one atlas on the gradient echo, and a close view of the deep nuclei on susceptibility."""
    if images.has("magnitude"):
        name = f"seg-{atlas}_desc-regions_MEGRE.png"
        yield _contours(images, f"the gradient echo ({atlas})", name, "magnitude", role)
    if images.has("chi"):
        yield Drawing(
            "registration",
            f"seg-{atlas}_desc-deep_Chimap.png",
            f"Deep nuclei on susceptibility ({atlas})",
            PARTS_CAPTION if atlas in PARTS_OF.values() else "Bright nuclei should lie inside their lines.",
            lambda: _deep(images, role),
            ("chi", "mask", role),
        )


def _mask_mosaic(images: Images) -> bytes:
    volume, scale = images.grey("magnitude", 0)
    title = f"{images.prefix}: Brain and mapped voxels, first echo"
    around = images.brain or volume
    return figures.mosaic(volume, scale=scale, title=title, outline=images.measured, wider=images.brain, around=around)


def _labels_on(images: Images, background: str, role: str) -> bytes:
    volume, scale = images.grey(background, 0)
    labels = images.volume(role)
    return figures.mosaic(volume, scale=scale, title=f"{images.prefix}: Regions", labels=labels, around=labels)


def _deep(images: Images, role: str) -> bytes:
    """Susceptibility around the deep nuclei that the label table names, else around all labels."""
    labels = images.volume(role)
    chosen = _deep_labels(images.files[role])
    near = Volume(np.isin(labels.data, chosen) if chosen else labels.data != 0, labels.affine)
    shown = Volume(np.where(near.data, labels.data, 0), labels.affine)
    return figures.mosaic(
        images.inside("chi"),
        scale=CHI_SCALE,
        title=f"{images.prefix}: Deep nuclei",
        labels=shown,
        around=near,
        columns=5,
    )


def _deep_labels(image: Path) -> list[int]:
    """Label values of the deep nuclei in the table beside a label image."""
    return [value for value, words in _label_names(image).items() if any(name in words for name in DEEP)]


def _label_names(image: Path) -> dict[int, str]:
    """Label value to its name in small letters."""
    return {int(entry["index"]): entry.get("name", "").lower() for entry in _label_table(image)}


def _label_table(image: Path) -> list[dict[str, str]]:
    """The table beside a label image; empty where there is none."""
    table = image.with_name(image.name.removesuffix(".nii.gz") + ".tsv")
    if not table.exists():
        return []
    header, *rows = [line.split("\t") for line in table.read_text().splitlines()]
    return [dict(zip(header, row, strict=False)) for row in rows]


ORIENTING = "Published values come from other scanners, ages and reference regions: they orient and do not decide."
MOST_REGIONS = 200
"""A plot of more regions cannot be read; the table has them all."""


def _region_drawings(table: RegionTable, age: float | None) -> Iterator[Drawing]:
    known = expected_at(age)
    names = {row["name"] for row in table.rows}
    if not names.isdisjoint(known):
        yield Drawing(
            "regions",
            f"seg-{table.atlas}_desc-regions_Chimap.svg",
            f"Mean susceptibility of the regions ({table.atlas})",
            f"{_published_words(names, age)}{ALARM_LIMITS} {ORIENTING}",
            lambda: figures.region_plot(table.rows, expected=known),
        )
    if 0 < len(names - known.keys()) <= MOST_REGIONS:
        yield Drawing(
            "regions",
            f"seg-{table.atlas}_desc-otherregions_Chimap.svg",
            f"Mean susceptibility of the other regions ({table.atlas})",
            "Regions for which no published value is at hand.",
            lambda: figures.other_regions_plot(table.rows, without=known),
        )


def _published_words(names: set[str], age: float | None) -> str:
    """Where the published means and their bars come from, and what was done to them for the subject's age."""
    groups = group_words(names)
    if not groups:
        return ""
    if age is None:
        scaled = "The subject's age is not known, and nothing is scaled to it."
    elif names & IRON.keys():
        scaled = (
            f"Means of pallidum, putamen and caudate are scaled to {age:g} years by the iron of Hallgren and Sourander "
            "(1958); this treats values relative to the mean of the whole brain as proportional to iron and is "
            "approximate."
        )
    else:
        scaled = ""
    spread = SD_WORDS if any(EXPECTED[name].sd_ppb is not None for name in names & EXPECTED.keys()) else ""
    return " ".join(part for part in (groups, area_words(names), spread, scaled) if part) + " "


def _viewer_drawing(images: Images) -> Iterator[Drawing]:
    if images.has("chi", "mask"):
        yield Drawing(
            "maps",
            VIEWER,
            "The map in three planes",
            "Click or drag to move through the brain; the slider fades the regions in and out. Their colours tell "
            "neighbours apart and are no legend: the words below name the region and the value at the cross, and where "
            "it lies in the scanner (mm to the right, front and top).",
            lambda: _viewer(images),
            ("chi", "mask", *images.first_labels),
        )


VIEWER = "desc-viewer_Chimap.html"


def _viewer(images: Images) -> bytes:
    from qsmals.reports.viewer import viewer

    assert images.mask is not None
    role = next(iter(images.first_labels), None)
    return viewer(
        images.volume("chi"),
        images.mask,
        images.volume(role) if role else None,
        names=_region_names(images.files[role]) if role else {},
        scale=CHI_SCALE,
        title=images.prefix,
    )


SIDES = {"L": "left ", "R": "right "}


def _region_names(image: Path) -> dict[int, str]:
    """Label value to the region's name with its side."""
    return {
        int(entry["index"]): SIDES.get(entry.get("hemisphere", ""), "") + entry.get("name", "").replace("_", " ")
        for entry in _label_table(image)
    }
