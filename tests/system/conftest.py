"""What the system tests share: a marker, a place that all nodes see, and a look at what they leave behind."""

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.machine import (
    CHEAP,
    MARK,
    ROOT,
    build_image,
    call,
    children,
    containers,
    engine,
    mounts,
    must,
    need,
    need_no_tmp,
    need_root,
    qsmals,
    simulate,
)
from tests.system.slurm import COMMANDS, Cluster

TAG = "localhost/qsmals:system-test"
HERE = Path(__file__).parent
# not below /tmp, which each node of the test cluster has for itself
SHARED = f"{'/srv' if os.access('/srv', os.W_OK) else '/var/tmp'}/qsmals-system-"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a system test; one that needs a whole run or an image is slow."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.system)
            item.add_marker(pytest.mark.timeout(2400))
            if {"whole", "image"} & set(getattr(item, "fixturenames", ())):
                item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No process, mount or container of these tests outlives them: all children inherit a marked environment."""
    os.environ[MARK] = uuid.uuid4().hex
    places = (str(tmp_path_factory.getbasetemp()), SHARED)
    mounted, contained = mounts(), containers()
    yield
    for _ in range(50):  # a daemon that was told to end takes a moment
        if not (left := children()):
            break
        time.sleep(0.2)
    assert not left, f"processes are left: {left}"
    left_mounts = {mount for mount in mounts() - mounted if mount.startswith(places)}
    assert not left_mounts, f"mounts are left: {left_mounts}"
    assert containers() <= contained, f"containers are left: {containers() - contained}"


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """A folder that stands for the shared disk of a cluster."""
    folder = Path(tempfile.mkdtemp(prefix=Path(SHARED).name, dir=Path(SHARED).parent))
    folder.chmod(0o755)
    os.environ.setdefault("NUMBA_CACHE_DIR", str(folder / "numba"))  # compiled once for all runs
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def subject(shared: Path) -> Path:
    """A BIDS data set of one coarse simulated person."""
    return simulate(shared / "bids")


@pytest.fixture(scope="session")
def whole(subject: Path, shared: Path) -> Path:
    """OUTPUT_DIR of a run of that person from scans to tables; other tests take its registrations over."""
    out = shared / "whole"
    done = qsmals(subject, out, "participant", *CHEAP, "-w", shared / "whole_work")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="session")
def image() -> Iterator[str]:
    """The tag of an image of this checkout, or of the one that QSMALS_IMAGE names."""
    need_root()
    if engine() is None:
        pytest.skip("needs podman or docker")
    if given := os.environ.get("QSMALS_IMAGE"):
        yield given
        return
    build_image(ROOT, TAG)
    yield TAG
    must(engine(), "rmi", TAG)


@pytest.fixture(scope="session")
def cluster(shared: Path) -> Iterator[Cluster]:
    """Two nodes."""
    need_root()
    need(*COMMANDS)
    need_no_tmp("which each node of the test cluster has for itself")
    if (refused := call("unshare", "--uts", "--mount", "true")).returncode:
        pytest.skip(f"this machine does not let its root have names and mounts apart: {refused.stderr.strip()}")
    found = Cluster(shared / "slurm")
    try:
        found.start()
        yield found
    finally:
        found.stop()
