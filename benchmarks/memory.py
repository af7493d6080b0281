"""What each step asks for and what it holds, on heads of several sizes.

    python benchmarks/memory.py [WORK_FOLDER] [--sizes 3 1.5 1] [--given NAME=OUTPUT_DIR ...] [--docs docs]
                                [-- OPTIONS OF qsmals]

Simulates a head at each voxel size and processes it, every step in a fresh worker, so that no step pays for the
libraries or the freed memory of the one before. Options after `--` go to every run. `--given` adds runs that were made
before with a plugin file of `plugin_args: {maxtasksperchild: 1}`. Writes memory.md into the folder of `--docs`: the
number asked for, the largest resident memory, and their ratio. The limit is a quarter; a step that asks for too little
counts as one that asks for too much.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from measuring import cell, markdown

from qsmals import __version__
from qsmals.engine.files import write_text

TOLERANCE = 0.25
PASSING = ("as_list", "template_facts", "written")
ECHOES_MS = ("4", "9", "14", "19", "24", "29")
PLUGIN = "plugin: MultiProc\nplugin_args:\n  maxtasksperchild: 1\n"

INTRODUCTION = """# Memory

Written by `benchmarks/memory.py` with qsmals {version}; do not edit by hand.

What each step asked for and the largest resident memory of its worker, GB, each step in a process of its own. The
scheduler runs steps side by side as long as what they ask for fits into the limit. {verdict} Steps that save a file or
pass a value on stand in one line each: the one that is furthest off.
"""


def run(size_mm: float, folder: Path, options: list[str]) -> Path:
    """Simulate and process a head; returns OUTPUT_DIR, which is taken as it is when it is there already."""
    bids, out, plugin = folder / f"bids-{size_mm:g}", folder / f"out-{size_mm:g}", folder / "plugin.yml"
    write_text(plugin, PLUGIN)
    if not steps_files(out):
        size = [f"{size_mm:g}"] * 3
        simulate = ["--participants", "1", "--voxel-size-mm", *size, "--echo-times-ms", *ECHOES_MS]
        subprocess.run([sys.executable, "-m", "qsmals.cli.simulate", bids, *simulate], check=True)
        words = ["--skip-bids-validation", "--use-plugin", plugin, "-w", folder / f"work-{size_mm:g}", *options]
        subprocess.run([sys.executable, "-m", "qsmals", bids, out, "participant", *words], check=True)
    return out


def steps_files(out: Path) -> list[Path]:
    """Tables of the steps of each run in an OUTPUT_DIR, the oldest first."""
    return sorted(out.glob("sub-*/log/*/steps.tsv"))


def measured(out: Path) -> pd.DataFrame:
    """The steps of OUTPUT_DIR that were run, not cached; the columns asked and held, GB, by the step's name."""
    tables = [pd.read_csv(file, sep="\t", na_values="n/a") for file in steps_files(out)]
    steps = pd.concat(tables)
    steps = steps[(steps["state"] == "done") & steps["peak_gb"].notna()].drop_duplicates("node", keep="last")
    steps["step"] = [kind(node, name) for node, name in zip(steps["node"], steps["name"], strict=True)]
    steps["off"] = (steps["mem_gb"] / steps["peak_gb"] - 1).abs()
    worst = steps.sort_values("off").drop_duplicates("step", keep="last")
    return worst.set_index("step")[["mem_gb", "peak_gb"]].rename(columns={"mem_gb": "asked", "peak_gb": "held"})


def kind(node: str, name: str) -> str:
    """What a line of the table is about."""
    own = node.rsplit(".", 1)[-1]
    if own.startswith("save_"):
        return "files"
    if "chain" in own or own.startswith("transforms_") or own in PASSING:
        return "values passed on"
    return name


def table(runs: dict[str, pd.DataFrame]) -> tuple[str, list[str]]:
    """The table in Markdown, and the steps that are off by more than the tolerance somewhere."""
    names = list(dict.fromkeys(name for steps in runs.values() for name in steps.index))
    rows, off = [], []
    for name in names:
        cells = [name]
        for size, steps in runs.items():
            if name not in steps.index:
                cells += ["–"] * 3
                continue
            asked, held = (float(steps.loc[name, column]) for column in ("asked", "held"))
            ratio = asked / held
            cells += [cell(asked), cell(held), cell(ratio)]
            if abs(ratio - 1) > TOLERANCE:
                off.append(f"{name} ({size}: {ratio:.2f})")
        rows.append(cells)
    header = ["step", *(f"{size}: {what}" for size in runs for what in ("asked", "held", "ratio"))]
    return markdown(header, rows), off


def main() -> int:
    """Measure, write the page; returns 1 where a step is off by more than the tolerance."""
    words, options = sys.argv[1:], []
    if "--" in words:
        words, options = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="kept for a later call (default: a temporary one)")
    parser.add_argument("--sizes", nargs="*", type=float, default=[3.0, 1.5, 1.0], metavar="MM")
    parser.add_argument("--given", nargs="*", default=[], metavar="NAME=OUTPUT_DIR")
    parser.add_argument("--docs", type=Path, default=Path("docs"))
    args = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        given = dict(word.split("=", 1) for word in args.given)
        runs = {name: measured(Path(out)) for name, out in given.items()}
        runs |= {f"{size:g} mm": measured(run(size, folder, options)) for size in args.sizes}
    text, off = table(runs)
    verdict = f"Every step lies within {TOLERANCE:.0%}."
    if off:
        verdict = f"Off by more than {TOLERANCE:.0%}: {'; '.join(off)}."
    page = INTRODUCTION.format(version=__version__, verdict=verdict)
    write_text(args.docs / "memory.md", f"{page}\n{text}\n")
    print(verdict)
    return int(bool(off))


if __name__ == "__main__":
    sys.exit(main())
