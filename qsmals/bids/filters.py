"""Which files are the scans: pybids queries, changed by ``--bids-filter-file``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qsmals.bids.errors import InvalidInput
from qsmals.bids.naming import IMAGE_EXTENSIONS, strip_prefix

QUERIES: Mapping[str, Mapping[str, Any]] = {
    "megre": {"datatype": "anat", "suffix": "MEGRE", "extension": list(IMAGE_EXTENSIONS)},
    "t1w": {"datatype": "anat", "suffix": "T1w", "part": [None, "mag"], "extension": list(IMAGE_EXTENSIONS)},
}
"""The keys that a filter file may hold, with the query each of them changes.

``megre`` finds the gradient-echo images (all echoes and parts), ``t1w`` the T1-weighted ones. As in
fMRIPrep each value is an object of pybids entities; an entity replaces the default's, ``null`` means
that the entity must be absent, ``"*"`` or ``"Query.ANY"`` that it must be there. For example, a
single echo with an older name is found by ``{"megre": {"suffix": "T2starw", "acquisition": "swi"}}``.
"""

_QUERY_WORDS = ("NONE", "ANY", "REQUIRED", "OPTIONAL")
_SHORT_NAMES = {
    **{"sub": "subject", "ses": "session", "acq": "acquisition", "rec": "reconstruction"},
    **{"ce": "ceagent", "dir": "direction"},
}


def read_filter_file(path: Path) -> dict[str, dict[str, Any]]:
    """Read a filter file; keys other than ``megre`` and ``t1w`` are left out.

    Raises
    ------
    InvalidInput
        When the file is missing, is not JSON, or one of our keys does not hold an object.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the filter file {path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"the filter file {path} must hold a JSON object with the keys megre and t1w")
    return {key: _checked(key, content[key]) for key in QUERIES if key in content}


def merged_queries(filters: Mapping[str, Mapping[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """The queries with the filters' entities in place of the defaults'; values still as in JSON.

    Examples
    --------
    >>> merged_queries({"megre": {"suffix": "GRE"}, "bold": {}})["megre"]["suffix"]
    'GRE'
    """
    chosen = {key: _checked(key, value) for key, value in (filters or {}).items() if key in QUERIES}
    return {key: {**query, **chosen.get(key, {})} for key, query in QUERIES.items()}


def as_list(value: Any) -> list[Any]:
    """``value`` itself when it is a list, else a list that holds it."""
    return list(value) if isinstance(value, list | tuple) else [value]


def pybids_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """The query with ``null``, ``"*"`` and ``"Query.X"`` as pybids' own values."""
    return {key: [_pybids_value(v) for v in as_list(value)] for key, value in query.items()}


def _pybids_value(value: Any) -> Any:
    from bids.layout import Query

    if value is None:
        return Query.NONE
    if value == "*":
        return Query.ANY
    word = str(value).rpartition("Query.")[2] if "Query." in str(value) else ""
    if word in _QUERY_WORDS:
        return Query[word]
    return value


def _checked(key: str, entities: Any) -> dict[str, Any]:
    """One key's entities under their pybids names, labels without ``sub-`` and ``ses-``."""
    if not isinstance(entities, Mapping):
        raise InvalidInput(f'the filter "{key}" must be an object of entities, such as {{"suffix": "MEGRE"}}')
    result: dict[str, Any] = {}
    for entity, value in entities.items():
        for item in as_list(value):
            if not (item is None or isinstance(item, str | int)) or isinstance(item, bool):
                raise InvalidInput(f'the filter "{key}": {entity} must be a text, a number, null or a list of them')
        name = _SHORT_NAMES.get(str(entity), str(entity))
        clean = [_clean_label(name, item) for item in as_list(value)]
        result[name] = clean if isinstance(value, list | tuple) else clean[0]
    return result


def _clean_label(entity: str, value: Any) -> Any:
    """Subject and session labels without their prefix, anything else as it is."""
    key = {"subject": "sub", "session": "ses"}.get(entity)
    return strip_prefix(value, key) if key and isinstance(value, str) else value
