"""Every knob of a run: frozen, grouped by concern, and the same in memory and in a TOML file."""

import dataclasses
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from qsmals.engine.files import write_text


@dataclass(frozen=True)
class Selection:
    """Which scans of the data set are processed."""

    participant_label: tuple[str, ...] = ()
    session_label: tuple[str, ...] = ()
    bids_filter_file: str | None = None
    bids_database_dir: str | None = None
    skip_bids_validation: bool = False
    derivatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class Acquisition:
    """What the sidecars may lack or have wrong."""

    field_strength_tesla: float | None = None
    phase_sign: Literal["auto", "positive", "negative"] = "auto"
    """``positive``: stored phase grows with the field."""
    readout: Literal["auto", "monopolar", "bipolar"] = "auto"


@dataclass(frozen=True)
class Reconstruction:
    """Method of each stage by name, and the parameters that differ from its defaults."""

    preset: str | None = None
    """The published pipeline from which the rest started; what was set besides won."""
    phase_offset: str = "mcpc-3d-s"
    unwrap: str = "romeo"
    field: str = "weighted"
    mask: str = "brain-and-quality"
    background: str = "lbv"
    inversion: str = "weak-harmonic"
    reference: Literal["brain", "csf", "wm"] = "brain"
    """The whole brain is what the consensus recommends (C8)."""
    relaxometry: str = "arlo"
    parameters: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Per method, e.g. ``{"weak-harmonic": {"regularisation": 2e-4}}``."""


@dataclass(frozen=True)
class Anatomy:
    """Brain extraction, registration and regions."""

    brain_extraction: Literal["auto", "template", "deepbet", "skip"] = "auto"
    """``auto`` (skipped on a T1w image that is seen to be brain-only), ``template``, ``deepbet`` (an extra), ``skip``.
    A brain mask that another pipeline made comes before all of them."""
    output_spaces: tuple[str, ...] = ("MNI152NLin6Asym",)
    """Standard spaces that receive the susceptibility map; the atlas's own is always first."""
    atlas: Literal["als"] = "als"
    extra_atlases: tuple[str, ...] = ()
    """Further atlases, each ``NAME=FILE[,LABELS.tsv[,SPACE]]``."""
    skip_registration: bool = False
    """All transforms are taken from the derivatives that were given."""
    refinement: Literal["susceptibility", "t1w", "none"] = "susceptibility"
    """``susceptibility`` (deep nuclei are placed by the map as well), ``t1w`` (borders that the T1w image shows are
    fitted to it) or ``none`` (regions stay as registration left them)."""
    cortex: Literal["grey-matter", "atlas"] = "grey-matter"
    """``grey-matter`` (cortical labels follow that of the T1w image) or ``atlas`` (as registration left them)."""


@dataclass(frozen=True)
class Resources:
    """What the run may use; ``None`` is what the machine, the container or the job allows."""

    nprocs: int | None = None
    omp_nthreads: int | None = None
    memory_gb: float | None = None
    use_plugin: str | None = None


@dataclass(frozen=True)
class Behaviour:
    """How a run goes about it."""

    sloppy: bool = False
    random_seed: int = 20240101
    deterministic: bool = False
    stop_on_first_crash: bool = False
    write_graph: bool = False
    clean_workdir: bool = False
    qc_thresholds: str | None = None
    """TOML file with other limits of the quality measures."""


@dataclass(frozen=True)
class Settings:
    """A whole run."""

    bids_dir: str
    output_dir: str
    work_dir: str
    selection: Selection = Selection()
    acquisition: Acquisition = Acquisition()
    reconstruction: Reconstruction = dataclasses.field(default_factory=Reconstruction)
    anatomy: Anatomy = Anatomy()
    resources: Resources = Resources()
    behaviour: Behaviour = Behaviour()

    @classmethod
    def from_mapping(cls, values: typing.Mapping[str, Any]) -> Self:
        """Settings from nested mappings; an unknown key or a wrong type is a ValueError."""
        return typing.cast(Self, _build(cls, values, ""))

    def to_mapping(self) -> dict[str, Any]:
        """Nested plain values, ``None`` left out, as TOML takes them."""
        return typing.cast(dict[str, Any], _plain(dataclasses.asdict(self)))


def read_toml(path: Path) -> dict[str, Any]:
    """Nested mapping in a TOML file; what TOML cannot parse is a ValueError that names the file."""
    try:
        with Path(path).open("rb") as stream:
            return tomllib.load(stream)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from error


def write_toml(path: Path, settings: Settings, **tables: dict[str, Any]) -> Path:
    """Write the settings that reproduce a run; ``tables`` are added for the reader (versions, command)."""
    import tomli_w

    return write_text(Path(path), tomli_w.dumps({**settings.to_mapping(), **tables}))


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """``base`` with the leaves of ``over`` in place of its own.

    >>> merge({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}})
    {'a': {'b': 1, 'c': 3}}
    """
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _build(kind: type, values: typing.Mapping[str, Any], where: str) -> Any:
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise ValueError(f"unknown setting {where}{unknown[0]}; there are {', '.join(sorted(hints))}")
    return kind(**{name: _convert(hints[name], value, where + name) for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"setting {where} is a table, not {value!r}")
        return _build(typing.cast(type, hint), value, where + ".")
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
            raise ValueError(f"setting {where} is a list of words, not {value!r}")
        return tuple(value)
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise ValueError(f"setting {where} is one of {', '.join(typing.get_args(hint))}, not {value!r}")
        return value
    allowed = typing.get_args(hint) if isinstance(hint, types.UnionType) else (typing.get_origin(hint) or hint,)
    if float in allowed and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        names = " or ".join(getattr(a, "__name__", str(a)) for a in allowed if a is not type(None))
        raise ValueError(f"setting {where} is of type {names}, not {value!r}")
    return value
