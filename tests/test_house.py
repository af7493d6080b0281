"""Who may import whom, and what a bare import costs."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "qsmals"

KERNELS = {"recon", "roi", "simulate", "qc"}
PURE = {"numpy", "scipy", "numba"}

# What each room may import of the others; "" is a module directly in qsmals/.
ALLOWED: dict[str, set[str]] = {
    "recon": KERNELS,
    "roi": KERNELS,
    "simulate": KERNELS,
    "qc": KERNELS,
    "anatomy": {"anatomy", "recon", "roi", "engine"},
    "bids": {"bids", "recon", "roi", "simulate", "anatomy", "engine"},
    "engine": {"engine"},
    "reports": {"reports", "bids", "recon", "roi", "qc", "engine"},
    "interfaces": {"interfaces", "recon", "roi", "qc", "anatomy", "bids", "engine", "reports"},
    "workflows": {"workflows", "interfaces", "bids", "engine", "settings"},
    "cli": {"cli", "workflows", "bids", "engine", "reports", "settings", "anatomy", "recon", "simulate", "qc"},
    "settings": {"engine"},
}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Absolute names of all modules that a file imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the room that they reach into"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "qsmals"}
    return names


FILES = sorted(p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.name == "settings.py")
FILES += sorted((PACKAGE / "workflows").glob("*.py"))


@pytest.mark.parametrize("path", sorted(set(FILES)), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_room_imports_only_what_it_may(path: Path) -> None:
    room = room_of(path)
    for module in imported_modules(path):
        parts = module.split(".")
        if parts[0] == "qsmals" and len(parts) > 1 and parts[1] != "__version__":
            assert parts[1] in ALLOWED[room], f"{room} may not import {module}"
        elif parts[0] != "qsmals" and room in KERNELS:
            assert parts[0] in PURE | set(sys.stdlib_module_names), f"the kernel room {room} imports {module}"


@pytest.mark.parametrize("room", sorted(KERNELS))
def test_kernels_know_neither_paths_nor_logs(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        assert not imported_modules(path) & {"pathlib", "os", "logging", "subprocess"}, path


def test_workflows_is_no_package_of_its_own() -> None:
    assert (PACKAGE / "workflows").resolve() == ROOT / "workflows"


@pytest.mark.parametrize("module", ["qsmals", "qsmals.cli", "qsmals.cli.parser", "qsmals.settings"])
def test_import_stays_light(module: str) -> None:
    heavy = "('nipype', 'ants', 'numpy', 'bids', 'nibabel', 'numba', 'matplotlib', 'pandas')"
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_import_writes_and_changes_nothing(tmp_path: Path) -> None:
    code = "import os; before = dict(os.environ); import qsmals; print(before == dict(os.environ))"
    shown = subprocess.run(
        [sys.executable, "-B", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert shown.stdout.strip() == "True"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda p: p.name)
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text())
    missing = [t for t in targets if "://" not in t and not (page.parent / t).exists()]
    assert not missing
