"""The files at the top of OUTPUT_DIR, and the rules about where it may lie."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qsmals import __version__
from qsmals.bids.errors import InvalidInput
from qsmals.bids.names import BIDSIGNORE, DESCRIPTIONS
from qsmals.bids.sidecars import RAW_DATASET
from qsmals.engine.files import write_json, write_text

BIDS_VERSION = "1.11.0"
NAME = "qsmals"
DOCKER_TAG_VARIABLE = "QSMALS_DOCKER_TAG"
APPTAINER_VARIABLES = ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER")


def check_dataset(bids_dir: Path) -> None:
    """Raise InvalidInput unless ``dataset_description.json`` says that this is a raw BIDS data set."""
    path = bids_dir / "dataset_description.json"
    if not path.is_file():
        raise InvalidInput(
            f"{path} is missing: every BIDS data set has one, with Name and BIDSVersion. "
            "Add it, or give --skip-bids-validation"
        )
    content = _read_object(path)
    lacking = [key for key in ("Name", "BIDSVersion") if not isinstance(content.get(key), str)]
    if lacking:
        raise InvalidInput(f"{path} lacks {' and '.join(lacking)}. Add it, or give --skip-bids-validation")
    if content.get("DatasetType", "raw") == "derivative":
        raise InvalidInput(f"{bids_dir} is a derivative data set: BIDS_DIR must be the raw one")


def prepare_output_dir(
    output_dir: Path, bids_dir: Path, *, environ: Mapping[str, str], version: str = __version__
) -> tuple[str, ...]:
    """Write ``dataset_description.json``, ``.bidsignore`` and ``descriptions.tsv``.

    A file that is already as it should be is left alone, so that processes may do this at the same time.

    Parameters
    ----------
    output_dir, bids_dir : Path
    environ : mapping
        Environment variables, for the container's name.
    version : str
        Of qsmals.

    Returns
    -------
    tuple of str
        Warnings, e.g. that results of another version are there.

    Raises
    ------
    InvalidInput
        `output_dir` holds another data set.
    """
    warnings = _check_earlier(output_dir, version)
    description = dataset_description(output_dir, bids_dir, environ=environ, version=version)
    path = output_dir / "dataset_description.json"
    if not path.is_file() or _read_object(path) != description:
        write_json(path, description)
    _write_lines(output_dir / ".bidsignore", BIDSIGNORE)
    _write_lines(output_dir / "descriptions.tsv", ("desc_id\tdescription", *map("\t".join, DESCRIPTIONS.items())))
    return warnings


def dataset_description(
    output_dir: Path, bids_dir: Path, *, environ: Mapping[str, str], version: str = __version__
) -> dict[str, Any]:
    """Content of the derivative's ``dataset_description.json``."""
    container = container_fields(environ)
    raw = _raw_link(output_dir, bids_dir)
    return {
        "Name": "qsmals - quantitative susceptibility mapping",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": NAME, "Version": version, **({"Container": container} if container else {})}],
        "SourceDatasets": [{"URL": raw}],
        "DatasetLinks": {RAW_DATASET: raw},
        "HowToAcknowledge": "Please cite the papers listed in logs/CITATION.md.",
    }


def container_fields(environ: Mapping[str, str]) -> dict[str, str]:
    """BIDS' description of the container that the program runs in; empty outside of one.

    Apptainer and Singularity name their image in the environment; our Docker image sets
    ``QSMALS_DOCKER_TAG``.

    Examples
    --------
    >>> container_fields({"QSMALS_DOCKER_TAG": "qsmals:1.0"})
    {'Type': 'docker', 'Tag': 'qsmals:1.0'}
    """
    tag = environ.get(DOCKER_TAG_VARIABLE, "")
    image = next((environ[name] for name in APPTAINER_VARIABLES if environ.get(name)), "")
    if image:
        kind = "apptainer" if environ.get(APPTAINER_VARIABLES[0]) else "singularity"
        return {"Type": kind, **({"Tag": tag} if tag else {}), "URI": Path(image).absolute().as_uri()}
    return {"Type": "docker", "Tag": tag} if tag else {}


def _raw_link(output_dir: Path, bids_dir: Path) -> str:
    """The raw data set as a relative path where OUTPUT_DIR lies in it, else as a ``file:`` URI."""
    raw, output = _real(bids_dir), _real(output_dir)
    return "/".join([".."] * len(output.relative_to(raw).parts)) if output.is_relative_to(raw) else raw.as_uri()


def _check_earlier(output_dir: Path, version: str) -> tuple[str, ...]:
    """Warnings about what is in the folder already; another program's data set is an error."""
    path = output_dir / "dataset_description.json"
    if not path.is_file():
        return ()
    content = _read_object(path)
    ours = _own_entries(content)
    if not ours:
        raise InvalidInput(
            f"OUTPUT_DIR {output_dir} holds another data set ({content.get('Name', 'no name')}). "
            "Choose a folder of its own"
        )
    versions = sorted({str(p.get("Version")) for p in ours} - {version})
    if not versions:
        return ()
    return (
        f"OUTPUT_DIR has results of qsmals {', '.join(versions)}; this is {version}. "
        "Numbers of different versions should not be mixed: choose an empty folder to be safe",
    )


def _own_entries(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What ``GeneratedBy`` of a data set's description says of this program."""
    entries = content.get("GeneratedBy")
    return [p for p in entries if isinstance(p, dict) and p.get("Name") == NAME] if isinstance(entries, list) else []


def made_here(root: Path) -> bool:
    """Whether a data set was written by this program.

    Raises
    ------
    InvalidInput
        Its description cannot be read.
    """
    path = root / "dataset_description.json"
    return path.is_file() and bool(_own_entries(_read_object(path)))


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write the lines; lines that somebody added to an earlier file stay, after ours."""
    earlier = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    wanted = [*lines, *(line for line in earlier if line.strip() and line not in lines)]
    if earlier != wanted:
        write_text(path, "\n".join(wanted) + "\n")


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} cannot be read as JSON ({error}). Mend or remove it") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"{path} must hold a JSON object. Mend or remove it")
    return content


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))
