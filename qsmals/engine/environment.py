"""Make any machine a fit place to run: caches, home and temporary files where they can be written.

The command line calls :func:`prepare_environment` before it imports anything heavy. Only the
standard library is imported here.
"""

import hashlib
import io
import os
import platform
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# variable -> folder under the work folder; taken when the variable is unset or not writable
CACHES = {
    "XDG_CACHE_HOME": "cache",
    "MPLCONFIGDIR": "cache/matplotlib",
    "NIPYPE_CONFIG_DIR": "cache/nipype",
    "TEMPLATEFLOW_HOME": "cache/templateflow",
    "NILEARN_DATA": "cache/nilearn",
}
# variable -> value when unset
SWITCHES = {
    "NO_ET": "1",  # no telemetry from libraries
    "NIPYPE_NO_ET": "1",
    "NIPYPE_NO_MATLAB": "1",
    "PYTHONNOUSERSITE": "1",
    "MPLBACKEND": "Agg",
    "TEMPLATEFLOW_AUTOUPDATE": "off",
    # the main process only schedules; a BLAS with a thread per core of a large node would not even
    # start under a tight limit on processes. Workers get the counts of their nodes.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
MAX_FILES = 65536
MIN_TMP_MB = 2000  # registrations keep deformation fields there


def prepare_environment(work_dir: Path) -> dict[str, str]:
    """Set what is missing or unusable in the environment, to folders under ``work_dir``.

    A variable that the user set to a place that can be written is left alone. The installed
    package and HOME are never written: numba and matplotlib keep their caches in the work folder.

    Returns
    -------
    dict
        The variables that were set, for the log.

    Raises
    ------
    OSError
        ``work_dir`` itself cannot be made or written.
    """
    own = Path(work_dir).absolute() / ".qsmals"
    own.mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    for name, folder in CACHES.items():
        if not _usable(os.environ.get(name)):
            os.environ[name] = _make(own / folder)
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    if not _usable(os.environ.get("NUMBA_CACHE_DIR")):
        os.environ["NUMBA_CACHE_DIR"] = _make(own / "cache/numba" / processor())
    _prepare_home(own)
    _prepare_tmp(own)
    _prepare_names()
    _prepare_language()
    _prepare_files()
    return {name: value for name, value in os.environ.items() if before.get(name) != value}


def processor() -> str:
    """A short name of this kind of processor: code that was compiled for one may be no code for another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {line.split(":")[0].strip(): line for line in lines if line.startswith(("model name", "flags", "Features"))}
    words = "".join(told.values()) or platform.processor() or platform.machine()
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def _prepare_files() -> None:
    """More open files, where the system allows it: locks and workers' pipes each take some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # some systems name a limit that they do not grant
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    return str(folder)


def _usable(folder: str | None) -> bool:
    """Whether ``folder`` is named and a file can be written there; makes the folder if need be."""
    if not folder:
        return False
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x")
            probe.flush()
    except OSError:
        return False
    return True


def _prepare_home(own: Path) -> None:
    home = os.environ.get("HOME")
    if not home or not Path(home).is_dir() or not os.access(home, os.W_OK | os.X_OK):
        os.environ["HOME"] = _make(own / "home")


def _prepare_tmp(own: Path) -> None:
    """Leave the system's temporary folder, unless it cannot be written or is all but full."""
    named = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    candidates = named[:1] or ["/tmp"]
    if not (_usable(candidates[0]) and shutil.disk_usage(candidates[0]).free >= MIN_TMP_MB * 1_000_000):
        os.environ["TMPDIR"] = _make(own / "tmp")
    tempfile.tempdir = None  # Python remembers the folder it found first


def _prepare_names() -> None:
    """LOGNAME and USER, which batch plugins and crash reports want, also for a uid without a name."""
    name = os.environ.get("LOGNAME") or os.environ.get("USER") or _account() or f"uid{os.getuid()}"
    for variable in ("LOGNAME", "USER"):
        if not os.environ.get(variable):
            os.environ[variable] = name


def _account() -> str | None:
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_name
    except (ImportError, KeyError, OSError):
        return None


def _prepare_language() -> None:
    """UTF-8 in this process's streams and in its children, whatever LANG says."""
    os.environ.setdefault("PYTHONUTF8", "1")
    if not any(os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG")):
        os.environ["LANG"] = "C.UTF-8"
    for stream in _text_streams():
        with suppress(ValueError, OSError):  # closed, or replaced by something without an encoding
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _text_streams() -> Iterator[io.TextIOWrapper]:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            yield stream
