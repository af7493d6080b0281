"""The command line as a Boutiques descriptor, for nipoppy and other tools that start programs from one.

``python -m qsmals.cli.descriptor > containers/nipoppy/descriptor.json`` writes it anew.
"""

import argparse
import json
import sys
from typing import Any

from qsmals import __version__
from qsmals.cli.parser import build_parser

EXIT_CODES = {
    1: "at least one subject failed; which and why is in logs/summary.json",
    2: "usage",
    3: "the input of at least one subject is invalid; the other subjects were processed",
    4: "nothing matched the selection",
    5: "outputs or a report incomplete",
    70: "internal error",
    130: "interrupted; the same command goes on from there",
    143: "terminated; the same command goes on from there",
}
LEVEL_ID = "analysis_level"  # BIDS Apps' own name


def descriptor() -> dict[str, Any]:
    """The descriptor: every option of the parser, the exit codes and the output folder."""
    parser = build_parser()
    actions = [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]
    inputs = [_input(action) for action in actions]
    return {
        "name": parser.prog,
        "description": parser.description,
        "tool-version": __version__,
        "schema-version": "0.5",
        "command-line": " ".join([parser.prog, *(entry["value-key"] for entry in inputs)]),
        "inputs": inputs,
        "output-files": [
            {
                "id": "output",
                "name": "output",
                "description": "maps, tables and reports as BIDS derivatives",
                "path-template": "[OUTPUT_DIR]",
            }
        ],
        "error-codes": [{"code": code, "description": text} for code, text in EXIT_CODES.items()],
        "suggested-resources": {"cpu-cores": 4, "ram": 16, "walltime-estimate": 14400},
        "tags": {"domain": ["neuroinformatics", "mri", "bids-app"]},
    }


def _input(action: argparse.Action) -> dict[str, Any]:
    """One option: its type is told by what the parser does with its words."""
    flags = sorted(action.option_strings, key=len)
    identity = _identity(action)
    entry: dict[str, Any] = {
        "id": identity,
        "name": flags[-1] if flags else identity,
        "description": _first_upper(action.help or ""),
        "type": _type(action),
        "optional": bool(flags),
        "value-key": f"[{identity.upper()}]",
    }
    if flags:
        entry["command-line-flag"] = next(flag for flag in action.option_strings if flag.startswith("--"))
    if entry["type"] == "Number" and getattr(action.type, "__name__", "") == "_count":
        entry["integer"] = True
    if action.choices:
        entry["value-choices"] = list(action.choices)
    if action.nargs == "+":
        entry["list"] = True
    return entry


def _identity(action: argparse.Action) -> str:
    if not action.option_strings:
        return LEVEL_ID if action.dest == "level" else action.dest
    flag = next(flag for flag in action.option_strings if flag.startswith("--"))
    return flag.removeprefix("--").replace("-", "_")


def _type(action: argparse.Action) -> str:
    if action.nargs == 0:
        return "Flag"
    converter = getattr(action.type, "__name__", "")
    if converter in ("_count", "_positive"):
        return "Number"
    return "File" if converter == "_file" or action.dest == "bids_dir" else "String"


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def main() -> int:
    """Print the descriptor."""
    json.dump(descriptor(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
