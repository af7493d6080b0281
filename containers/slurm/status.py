#!/usr/bin/env python3
"""Who is done, who failed and why, who is missing: from OUTPUT_DIR/logs/summary.json.

Any Python 3.6 or later; nothing else is needed, so that it runs on a login node.

    status.py OUTPUT_DIR [--bids BIDS_DIR | --subjects FILE] [--missing [--all]]

Exit code: 0 if every subject is done, else 1 (with --missing always 0).
"""

import argparse
import json
import sys
from pathlib import Path


def read_labels(arguments):
    """Labels with their prefix: of the list, else of the data set, else of the summary."""
    if arguments.subjects:
        words = Path(arguments.subjects).read_text().split()
        return [word if word.startswith("sub-") else "sub-" + word for word in words]
    if arguments.bids:
        return sorted(entry.name for entry in Path(arguments.bids).glob("sub-*") if entry.is_dir())
    return None


def read_entries(output_dir):
    """Entries of the summary by subject; none if no subject has ended yet."""
    try:
        return json.loads(Path(output_dir, "logs", "summary.json").read_text(encoding="utf-8"))["subjects"]
    except FileNotFoundError:
        return {}


def describe(label, entry):
    """Lines on one subject."""
    if entry is None:
        return [f"{label}  no result: not run yet, running, or killed (see the log of its task)"]
    lines = ["{}  {}  {}".format(label, entry["status"], entry.get("why", "")).rstrip()]
    for failure in entry.get("failures", []):
        crash = failure.get("crash_file")
        lines.append("    {}: {}{}".format(failure["node"], failure["why"], f" (see {crash})" if crash else ""))
    return lines


def main():
    """Print what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output_dir")
    parser.add_argument("--bids")
    parser.add_argument("--subjects")
    parser.add_argument("--missing", action="store_true", help="print only the labels that are not done")
    parser.add_argument("--all", action="store_true", help="with --missing: those that are done too")
    arguments = parser.parse_args()
    entries = read_entries(arguments.output_dir)
    labels = read_labels(arguments) or sorted(entries)
    left = [label for label in labels if entries.get(label, {}).get("status") != "ok"]
    if arguments.missing:
        for label in labels if arguments.all else left:
            print(label)
        return 0
    for label in left:
        print("\n".join(describe(label, entries.get(label))))
    print(f"{len(labels) - len(left)} of {len(labels)} subjects are done")
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main())
