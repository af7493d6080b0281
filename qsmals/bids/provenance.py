"""What the sidecars of region tables tell: which map a table was measured on, and whether tables can be compared."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from qsmals.bids.metadata import read_sidecar
from qsmals.bids.names import sidecar_path
from qsmals.bids.naming import build_name, parse_name
from qsmals.recon.stages import STAGES

NAMED = 20
"""Scans that differ from the others are named up to this number."""

OF_THE_MACHINE = ("file", "files", "random_seed", "deterministic")
"""Parameters in which tables may differ and yet be compared: where a file lies, and what repeats a run."""

OF_LABELS = ("template_registration", "atlas", "refinement", "cortex")
"""Steps on which labels depend, and no map on the grid of its scan."""

Recipe = dict[str, Any]
"""How a table was made: ``labels_from``, ``labels`` and ``version`` as text, and each step to its parameters."""


def sidecar_of(path: Path) -> Mapping[str, Any]:
    """Content of the JSON file beside a derivative; empty where there is none that can be read."""
    return read_sidecar(sidecar_path(path)).content


def why_outdated(table: Path) -> str:
    """Why a region table does not belong to the map beside it; empty where it does, or where no sidecar tells.

    A run writes the map anew and with it the tables of its own atlases. Those of an earlier run with other atlases
    stay: they hold as long as the map was made in the same way, and no longer.

    Parameters
    ----------
    table : Path
        ``[...]_seg-<atlas>_desc-roi_<Map>.tsv``.
    """
    name = parse_name(table.name)
    of_map = {key: value for key, value in name.entities.items() if key not in ("seg", "desc")}
    own = sidecar_of(table)
    now = sidecar_of(table.with_name(build_name(of_map, name.suffix, ".json")))
    ours, theirs = own.get("Parameters"), now.get("Parameters")
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        return ""
    changed = [step for step, values in theirs.items() if ours.get(step) != values]
    changed += [step for step in ours if step not in theirs and step not in OF_LABELS]
    before, after = own.get("SoftwareVersion"), now.get("SoftwareVersion")
    words = [_step_words(step) for step in dict.fromkeys(changed)]
    words += [f"qsmals {after} in place of {before}"] if before != after else []
    if not words:
        return ""
    return (
        f"{table.name} is left out: it was measured on an earlier {name.suffix}, and the one that is there was made "
        f"otherwise ({', '.join(words)}). Run the scan again with the atlas, or remove the table"
    )


def recipe_of(sidecar: Mapping[str, Any]) -> Recipe:
    """What decides whether a table can be compared with others, without what is of one scan or machine alone."""
    given = sidecar.get("Parameters")
    steps: Mapping[str, Any] = given if isinstance(given, dict) else {}
    return {
        "labels_from": str(sidecar.get("LabelsFrom", "")),
        "labels": str(sidecar.get("Labels", "")),
        "version": str(sidecar.get("SoftwareVersion", "")),
        **{step: _shared(values) for step, values in steps.items() if isinstance(values, dict)},
    }


def _shared(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a step without those that follow the scan or the machine."""
    own = {*OF_THE_MACHINE, *_of_the_scan(str(values.get("method")))}
    return {name: value for name, value in values.items() if name not in own}


@cache
def _of_the_scan(method: str) -> frozenset[str]:
    """Names of a method's parameters that follow echo times and field strength unless they are set."""
    from dataclasses import fields

    kinds = [registry[method].parameters for registry in STAGES.values() if method in registry]
    return frozenset(f.name for kind in kinds for f in fields(kind) if "scan" in f.metadata)


def differences(recipes: Sequence[tuple[str, Recipe]]) -> list[str]:
    """A sentence for each group of scans whose tables were made otherwise than those of the largest group.

    Parameters
    ----------
    recipes : sequence of (str, Recipe)
        Name of each scan with how its table was made.

    Examples
    --------
    >>> made = [("sub-1", {"version": "1"}), ("sub-2", {"version": "2"}), ("sub-3", {"version": "1"})]
    >>> differences(made)
    ['1 of 3 tables (sub-2) was not made like 2 others (as that of sub-1): qsmals 2 in place of 1']
    """
    groups: list[tuple[Recipe, list[str]]] = []
    for name, recipe in recipes:
        names = next((names for known, names in groups if known == recipe), None)
        if names is None:
            groups.append((recipe, [name]))
        else:
            names.append(name)
    if not groups:
        return []
    (usual, as_usual), *others = sorted(groups, key=lambda group: -len(group[1]))
    return [
        f"{len(names)} of {len(recipes)} tables ({named(names)}) {'was' if len(names) == 1 else 'were'} not made like "
        f"{len(as_usual)} other{'s'[: len(as_usual) > 1]} (as that of {as_usual[0]}): "
        + "; ".join(_difference_words(recipe, usual))
        for recipe, names in others
    ]


def named(names: Sequence[str]) -> str:
    """Names in running text, with the number of those beyond the first `NAMED`."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _difference_words(recipe: Recipe, usual: Recipe) -> Iterable[str]:
    """In what one recipe differs from another."""
    ours, theirs = ({key: r.get(key) or "unknown" for key in ("labels_from", "version")} for r in (recipe, usual))
    if ours["labels_from"] != theirs["labels_from"]:
        yield f"labels of {_maker(ours['labels_from'])} in place of {_maker(theirs['labels_from'])}"
    if ours["version"] != theirs["version"]:
        yield f"qsmals {ours['version']} in place of {theirs['version']}"
    told = ours != theirs
    for step in dict.fromkeys((*usual, *recipe)):
        if step in ("labels_from", "labels", "version") or recipe.get(step) == usual.get(step):
            continue
        told = True
        methods = [str(r[step].get("method")) if step in r else "none" for r in (recipe, usual)]
        if methods[0] == methods[1]:
            yield f"other parameters of {_step_words(step)}"
        else:
            yield f"{_step_words(step)} {methods[0]} in place of {methods[1]}"
    if not told:
        yield "other labels (“Labels” in their JSON)"


def _maker(labels_from: str) -> str:
    return "the atlas" if labels_from == "atlas" else labels_from


def _step_words(step: str) -> str:
    return step.replace("_", " ")
