"""Run the system tests of clusters and containers, and write what they showed into docs/clusters.md.

    python benchmarks/clusters.py [FILE ...]     # as root on Debian, after tests/system/prepare.sh

FILE: names in tests/system (default: all). The table between the marks ``tried`` has a line a test: what it does (its
docstring), and what became of it here; lines of tests that are not run, and the sum of a whole run, stay as they were.
The blocks between the marks ``transcript NAME`` are what the tests printed, where the page has such a block.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/clusters.md"
WHOLE = "all of these in one run"
FILES = sorted(path.name for path in (ROOT / "tests/system").glob("test_*.py"))


def main() -> int:
    """Run, write; returns pytest's exit code."""
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results.xml")
        tests = [ROOT / "tests/system" / name for name in sys.argv[1:] or FILES]
        command = [sys.executable, "-m", "pytest", *tests, "-rs", f"--junit-xml={results}"]
        done = subprocess.run(command, env={**os.environ, "QSMALS_TRANSCRIPTS": folder}, cwd=ROOT, check=False)
        text = replace_block(PAGE.read_text(), "tried", table(results, block(PAGE.read_text(), "tried")))
        for file in sorted(Path(folder).glob("*.txt")):
            if f"<!-- transcript {file.stem} -->" in text:
                text = replace_block(text, f"transcript {file.stem}", f"```\n{file.read_text().rstrip()}\n```")
    PAGE.write_text(text)
    return done.returncode


def block(text: str, name: str) -> str:
    """What stands between the marks of ``name``."""
    return text.split(f"<!-- {name} -->\n")[1].split(f"<!-- /{name} -->")[0]


def replace_block(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of ``name``."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name.split()[0]} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"{PAGE} has no block {name}")
    return pattern.sub(lambda found: f"{found[1]}{content}\n{found[2]}", text, count=1)


def table(results: Path, before: str) -> str:
    """A line for each test; those that were not run this time stay as they were, and the sum is of a whole run."""
    words = {name: line for file in FILES for name, line in docstrings(ROOT / "tests/system" / file).items()}
    kept = dict(re.findall(r"^\| (.*?) \| (.*?) \|$", before, re.MULTILINE))
    rows, cases = {}, list(ElementTree.parse(results).iter("testcase"))
    for case in cases:
        skipped = case.find("skipped")
        bad = case.find("failure") is not None or case.find("error") is not None
        outcome = "failed" if bad else f"not run: {skipped.get('message')}" if skipped is not None else "as it should"
        name = str(case.get("name")).split("[")[0]
        rows[words[name].rstrip(".")] = f"{outcome}, {float(case.get('time', 0)):.0f} s"
    known = [line.rstrip(".") for line in words.values()]
    lines = [f"| {line} | {rows.get(line) or kept[line]} |" for line in known if line in rows or line in kept]
    if all(line in rows for line in known):
        total = sum(float(case.get("time", 0)) for case in cases)
        lines.append(f"| {WHOLE}, on {os.cpu_count()} processors | {total / 60:.0f} min |")
    else:
        lines += [f"| {line} | {value} |" for line, value in kept.items() if line.startswith(WHOLE)]
    return "\n".join(["| what was tried for real | here |", "|---|---|", *lines])


def docstrings(path: Path) -> dict[str, str]:
    """First lines of the docstrings of a file's tests."""
    functions = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))
    return {f.name: (ast.get_docstring(f) or f.name).splitlines()[0] for f in functions if f.name.startswith("test_")}


if __name__ == "__main__":
    sys.exit(main())
