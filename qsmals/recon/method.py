"""What a reconstruction method is to the rest of the program, and the registry of a stage."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from itertools import pairwise
from math import pi
from typing import Any

from qsmals.recon.constants import GAMMA_BAR_MHZ_PER_TESLA


@dataclass(frozen=True)
class Citation:
    """A paper: key of its BibTeX entry, authors, title, journal with year, DOI."""

    key: str
    authors: str
    title: str
    journal: str
    year: int
    doi: str


@dataclass(frozen=True)
class Protocol:
    """What parameters may take from the scan: echo times, s, and field strength, T."""

    te_s: tuple[float, ...]
    b0_tesla: float

    @property
    def mean_te_rad_per_ppm(self) -> float:
        """Phase of 1 ppm at the mean echo time, rad: 2 pi gamma B0 TE.

        >>> round(Protocol((0.009, 0.019, 0.029), 3.0).mean_te_rad_per_ppm, 2)
        15.25
        """
        return self._rad_per_ppm(sum(self.te_s) / len(self.te_s))

    @property
    def spacing_rad_per_ppm(self) -> float:
        """Phase of 1 ppm over the smallest echo spacing, rad; one echo: over its echo time."""
        times = sorted(self.te_s)
        return self._rad_per_ppm(min((b - a for a, b in pairwise(times)), default=times[0]))

    def _rad_per_ppm(self, time_s: float) -> float:
        return round(2.0 * pi * GAMMA_BAR_MHZ_PER_TESLA * self.b0_tesla * time_s, 4)


@dataclass(frozen=True)
class Method:
    """One way to do one stage.

    Attributes
    ----------
    name : str
        The word on the command line, e.g. ``v-sharp``.
    title : str
        The name in running text, e.g. ``V-SHARP``.
    function : callable
        The kernel; its signature is the same for every method of a stage.
    parameters : type
        Frozen dataclass with the defaults; each field's ``metadata`` has ``unit`` and ``source``, and ``scan``, the
        name of a property of `Protocol`, where the value follows the scan unless it is set.
    sentence : str
        One sentence for the methods text, a format string over the parameters' fields, and over ``words`` of the
        parameters, a mapping, if they have it.
    citations : tuple of Citation
        Papers to cite when the method was used.
    beyond_brain : bool
        Of a background method: it is given the reliable phase around the brain as well. Those of spherical means are
        not, by design: the field of sources that lie there, as of fat, is not harmonic, and the spheres would reach it.
    total_field : bool
        Of an inversion: it starts from the total field, wherever that is reliable, and no background is removed before.
    finds_background : bool
        Of an inversion: it finds what background removal left as well, and the local field is known better after it.
    """

    name: str
    title: str
    function: Callable[..., Any]
    parameters: type
    sentence: str
    citations: tuple[Citation, ...]
    beyond_brain: bool = False
    total_field: bool = False
    finds_background: bool = False

    def make_parameters(self, values: Mapping[str, Any] | None = None, scan: Protocol | None = None) -> Any:
        """Parameters with ``values``, then those that follow the scan, in place of the defaults.

        An unknown name is a ValueError.
        """
        values = dict(values or {})
        known = {f.name for f in fields(self.parameters)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"{self.name} has no parameter {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}"
            )
        if scan is not None:
            values = {
                f.name: getattr(scan, f.metadata["scan"]) for f in fields(self.parameters) if "scan" in f.metadata
            } | values
        return self.parameters(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


class Registry(Mapping[str, Method]):
    """The methods of one stage by name; the first is the default.

    A method is given as ``"module:ATTRIBUTE"`` and imported when it is asked for, so that the
    command line can list the names without loading numerical libraries.
    """

    def __init__(self, stage: str, places: Mapping[str, str]) -> None:
        self.stage = stage
        self._places = dict(places)

    @property
    def default(self) -> str:
        """Name of the default method."""
        return next(iter(self._places))

    def __getitem__(self, name: str) -> Method:
        if name not in self._places:
            raise KeyError(f"{self.stage}: no method {name!r}; there are {', '.join(self._places)}")
        module, attribute = self._places[name].split(":")
        method = getattr(import_module(module), attribute)
        assert isinstance(method, Method) and method.name == name, f"{self._places[name]} is not the method {name}"
        return method

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
