"""Small BIDS trees with faults chosen by a seed, and what the program does with each of them.

``python -m tests.fuzzing FIRST COUNT FOLDER`` runs the participant level on COUNT trees, each in a process of its
own, up to the plan or, for every fifth, the graph that would be run, and prints a line for each tree on which the
program broke a promise: an undocumented exit code, a traceback, a hang, a refusal without a word, a file outside
OUTPUT_DIR and the work folder, a changed input, a healthy subject that was refused with a sick one, or memory for what
a header only claims.
"""

import gzip
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.bids_trees import Gre, Visit, sidecar_of, write_image, write_tree

DOCUMENTED = {0, 1, 3, 4, 5}
"""Exit codes that a bad input may lead to; 2 is for usage, and 70 would be a fault of the program."""

TIMEOUT_S = 60.0
MEMORY_GB = 1.0
"""Above what the process holds when it starts; a few voxels need far less."""

Rng = np.random.Generator


@dataclass
class Tree:
    """A data set under ``root`` whose subject ``sick`` is to be damaged.

    Attributes
    ----------
    touches_all : bool
        Whether what was done concerns the healthy subject too.
    """

    root: Path
    sick: Path
    rng: Rng
    damages: list[str] = field(default_factory=list)
    touches_all: bool = False

    def images(self) -> list[Path]:
        return sorted(p for p in self.sick.rglob("*.nii*") if p.is_file() and not p.is_symlink())

    def image(self) -> Path:
        return self._one(self.images())

    def sidecar(self) -> Path:
        return self._one([sidecar_of(image) for image in self.images()])

    def folder(self) -> Path:
        return self._one([self.sick, *(p for p in self.sick.rglob("*") if p.is_dir() and not p.is_symlink())])

    def pick(self, values: Sequence[Any]) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def _one(self, paths: list[Path]) -> Path:
        if not paths:
            raise LookupError
        return paths[int(self.rng.integers(len(paths)))]


# --- bytes ----------------------------------------------------------------------------------------


def truncate(tree: Tree) -> None:
    path = tree.image()
    content = path.read_bytes()
    path.write_bytes(content[: int(tree.rng.integers(len(content)))])


def flip_bits(tree: Tree) -> None:
    path = tree.image()
    content = bytearray(path.read_bytes())
    for _ in range(int(tree.rng.integers(1, 20))):
        content[int(tree.rng.integers(len(content)))] ^= 1 << int(tree.rng.integers(8))
    path.write_bytes(bytes(content))


def random_bytes(tree: Tree) -> None:
    tree.image().write_bytes(tree.rng.bytes(int(tree.rng.integers(1, 3000))))


def append_bytes(tree: Tree) -> None:
    path = tree.image()
    path.write_bytes(path.read_bytes() + tree.rng.bytes(int(tree.rng.integers(1, 3000))))


def unpack_under_the_same_name(tree: Tree) -> None:
    path = tree.image()
    path.write_bytes(gzip.decompress(path.read_bytes()))


def pack_twice(tree: Tree) -> None:
    path = tree.image()
    path.write_bytes(gzip.compress(path.read_bytes()))


# --- NIfTI headers --------------------------------------------------------------------------------

HEADER_FIELDS = {
    "sizeof_hdr": (0, "<i"), "dim0": (40, "<h"), "dim1": (42, "<h"), "dim2": (44, "<h"), "dim3": (46, "<h"),
    "dim4": (48, "<h"), "dim5": (50, "<h"), "datatype": (70, "<h"), "bitpix": (72, "<h"), "pixdim0": (76, "<f"),
    "pixdim1": (80, "<f"), "pixdim2": (84, "<f"), "pixdim3": (88, "<f"), "vox_offset": (108, "<f"),
    "scl_slope": (112, "<f"), "scl_inter": (116, "<f"), "qform_code": (252, "<h"), "sform_code": (254, "<h"),
    "quatern_b": (256, "<f"), "quatern_c": (260, "<f"), "qoffset_x": (268, "<f"), "srow_x0": (280, "<f"),
    "srow_y1": (300, "<f"), "srow_z2": (320, "<f"), "srow_z3": (324, "<f"), "magic": (344, "<i"),
    "extension": (348, "<i"),
}  # fmt: skip
SHORTS = (-32768, -7, -1, 0, 1, 2, 3, 4, 5, 7, 8, 16, 64, 128, 256, 512, 768, 1024, 1792, 2304, 32767)
FLOATS = (
    float("nan"),
    float("inf"),
    -float("inf"),
    0.0,
    -1.0,
    1e-30,
    1e30,
    3e38,
    -352.0,
    351.0,
    353.7,
    1e9,
    2.0,
    500.0,
)


def edit_header(path: Path, *edits: tuple[str, float]) -> None:
    content = path.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    raw = bytearray(gzip.decompress(content) if packed else content)
    for name, value in edits:
        offset, layout = HEADER_FIELDS[name]
        struct.pack_into(layout, raw, offset, value)
    path.write_bytes(gzip.compress(bytes(raw)) if packed else bytes(raw))


def odd_header(tree: Tree) -> None:
    names = tree.rng.permutation(sorted(HEADER_FIELDS))[: int(tree.rng.integers(1, 4))]
    edits = [(str(n), tree.pick(FLOATS if HEADER_FIELDS[n][1] == "<f" else SHORTS)) for n in names]
    edit_header(tree.image(), *edits)


def claim_terabytes(tree: Tree) -> None:
    size = int(tree.pick((1000, 1024, 9999, 32767)))
    edit_header(tree.image(), ("dim1", size), ("dim2", size), ("dim3", size))


def claim_terabytes_unpacked(tree: Tree) -> None:
    """The same in a file that is not compressed, and long as a file with a hole in it can be."""
    path = tree.image()
    other = path.with_suffix("") if path.suffix == ".gz" else path
    other.write_bytes(gzip.decompress(path.read_bytes()))
    if other != path:
        path.unlink()
    edit_header(other, ("dim1", 30000), ("dim2", 30000), ("dim3", 1500))
    os.truncate(other, int(tree.pick((10_000, 10**9, 10**12))))


def flip_bits_of_the_header(tree: Tree) -> None:
    path = tree.image()
    raw = bytearray(gzip.decompress(path.read_bytes()))
    for _ in range(int(tree.rng.integers(1, 6))):
        raw[int(tree.rng.integers(352))] ^= 1 << int(tree.rng.integers(8))
    path.write_bytes(gzip.compress(bytes(raw)))


# --- voxels ---------------------------------------------------------------------------------------


def odd_voxels(tree: Tree) -> None:
    path, kind = tree.image(), tree.pick(("<f4", "<f8", ">i2", "u1", "i8", "<c8"))
    shape = tree.pick(((6, 7, 5), (6, 7, 5, 1), (6, 7, 5, 3), (6, 7), (1, 1, 1), (4, 4, 4)))
    data = tree.rng.normal(0, 1000, shape)
    if kind in ("<f4", "<f8") and tree.rng.random() < 0.7:
        flat = data.ravel()
        flat[int(tree.rng.integers(flat.size))] = tree.pick((float("nan"), float("inf"), 1e300, 3e38, -1e39))
    if tree.rng.random() < 0.2:
        data[:] = tree.pick((0.0, float("nan"), float("inf"), 7.0))
    with np.errstate(all="ignore"):
        write_image(path, np.nan_to_num(data).astype(kind) if kind in (">i2", "u1", "i8") else data.astype(kind))


def odd_affine(tree: Tree) -> None:
    path = tree.image()
    affine = tree.rng.normal(0, float(tree.pick((0.1, 1.0, 100.0))), (3, 4))
    affine[:, 3] = tree.pick((0.0, 1e9, float("nan"), -40.0))
    if tree.rng.random() < 0.3:
        affine[:, int(tree.rng.integers(3))] = 0
    raw = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into("<12f", raw, 280, *affine.ravel())
    path.write_bytes(gzip.compress(bytes(raw)))


# --- sidecars -------------------------------------------------------------------------------------

KEYS = ("EchoTime", "MagneticFieldStrength", "Units", "Manufacturer", "RepetitionTime", "FlipAngle", "EchoNumber",
        "SoftwareVersions", "ImageType", "PixelBandwidth", "ConversionSoftware", "\ud83d", "a" * 300)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 4.5, 5, 10**400, -(10**30), 1e308, 1e-300, float("nan"), float("inf"), "", "0.005",
    "rad", "3T", "Siemens\n", "\u202e\u0000", "\ud800", "µT" * 500, [], [0.005], [[]], [None, {}], {}, {"a": {"b": []}},
    {"EchoTime": 0.005}, [1] * 1000,
)  # fmt: skip


def odd_fields(tree: Tree) -> None:
    path = tree.sidecar()
    content = json.loads(path.read_text()) if path.is_file() else {}
    for _ in range(int(tree.rng.integers(1, 4))):
        content[tree.pick(KEYS)] = tree.pick(VALUES)
    path.write_text(json.dumps(content))


def absurd_echo_time(tree: Tree) -> None:
    for path in sorted(tree.sick.rglob(f"*echo-{tree.pick((1, 2, 3))}*.json")):
        content = json.loads(path.read_text())
        content["EchoTime"] = tree.pick((0, -0.005, 5, 5000, 1e-9, 0.0050000001, 0.3, 1e-5, "5 ms", [0.005], None))
        path.write_text(json.dumps(content))


def same_odd_field_everywhere(tree: Tree) -> None:
    key, value = tree.pick(KEYS), tree.pick(VALUES)
    for path in sorted(tree.sick.rglob("*.json")):
        content = json.loads(path.read_text())
        content[key] = value
        path.write_text(json.dumps(content))


TEXTS = (b"", b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b"{}" * 2, b"[" * 50_000,
         b'{"EchoTime": 1e999}', b'{"EchoTime": 0.005, "EchoTime": 0.01}', b'{"a": "\xff"}', b"\x00" * 100,
         b'{"EchoTime":' + b"9" * 5000 + b"}")  # fmt: skip


def odd_json(tree: Tree) -> None:
    tree.sidecar().write_bytes(tree.pick(TEXTS))


def flip_bits_of_json(tree: Tree) -> None:
    path = tree.sidecar()
    content = bytearray(path.read_bytes())
    for _ in range(int(tree.rng.integers(1, 5))):
        content[int(tree.rng.integers(len(content)))] ^= 1 << int(tree.rng.integers(8))
    path.write_bytes(bytes(content))


def inherited_json(tree: Tree) -> None:
    """A sidecar higher up, which all that lies below inherits."""
    folder = tree.pick((tree.root, tree.sick))
    tree.touches_all |= folder == tree.root
    name = tree.pick(("MEGRE.json", "part-phase_MEGRE.json", "T1w.json", "echo-1_MEGRE.json", "_MEGRE.json"))
    (folder / name).write_bytes(tree.pick((*TEXTS, json.dumps({tree.pick(KEYS): tree.pick(VALUES)}).encode())))


# --- files and folders ----------------------------------------------------------------------------


def remove_files(tree: Tree) -> None:
    for _ in range(int(tree.rng.integers(1, 4))):
        tree.pick([*tree.images(), *(p for p in tree.sick.rglob("*.json") if p.is_file())]).unlink()


def duplicate(tree: Tree) -> None:
    path = tree.image()
    name = path.name
    other = tree.pick((
        name.removesuffix(".gz"),
        name.replace("echo-", "echo-0"),
        name.replace("_MEGRE", "_run-1_MEGRE").replace("_part-mag_run-1", "_run-1_part-mag"),
        name.replace(path.parent.parent.name, path.parent.parent.name + "_acq-x"),
        f"copy of {name}",
    ))  # fmt: skip
    content = path.read_bytes()
    with suppress(OSError):
        (path.parent / other).write_bytes(gzip.decompress(content) if other.endswith(".nii") else content)


def odd_name(tree: Tree) -> None:
    path = tree.image()
    name = tree.pick((
        path.name.replace("_", " "), path.name.replace("sub-", "sub- "), path.name.replace("echo-", "echo-²"),
        path.name.replace("echo-1", "echo-" + "9" * 60), path.name.replace("echo-1", "echo-0"),
        path.name.replace("part-mag", "part-Mag"), path.name.replace("MEGRE", "MEGRÉ"), path.name.replace("-", ""),
        path.name.replace("sub-sick", "sub-other"), path.name.replace("_", "__"), path.name.upper(), "\n" + path.name,
        path.name.replace("_echo", "_run-1_echo"), path.name.replace(".nii", "..nii"), "-w", "🧠" * 20 + ".nii.gz",
        path.name.replace("sub-sick", "sub-sick_ses-A"), path.name.replace("MEGRE", "MEGRE" + "x" * 150),
    ))  # fmt: skip
    path.rename(path.with_name(name))


def name_that_is_no_text(tree: Tree) -> None:
    path = tree.image()
    path.rename(path.with_name(os.fsdecode(tree.pick((b"\xff\xfe.nii.gz", b"sub-sick_\xe9_MEGRE.nii.gz")))))


def folder_for_file(tree: Tree) -> None:
    path = tree.pick((tree.image(), tree.sidecar()))
    path.unlink(missing_ok=True)
    path.mkdir()


def file_for_folder(tree: Tree) -> None:
    folder = tree.folder()
    shutil.rmtree(folder)
    folder.write_text("x")


def pipe_for_file(tree: Tree) -> None:
    path = tree.pick((tree.image(), tree.sidecar()))
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def link(tree: Tree) -> None:
    path = tree.pick((tree.image(), tree.sidecar()))
    path.unlink(missing_ok=True)
    path.symlink_to(tree.pick((path.name, "nowhere", "/dev/zero", "/dev/null", "..", "../../../.git/annex/objects/x")))


def link_loop(tree: Tree) -> None:
    folder = tree.folder()
    name = tree.pick(("loop", "anat", "ses-B", "sub-sick_T1w.nii.gz", "MEGRE.json"))
    with suppress(FileExistsError):
        (folder / name).symlink_to(tree.pick((folder, tree.root, tree.sick, "../" * 3, name)), target_is_directory=True)


def odd_folder(tree: Tree) -> None:
    name = tree.pick(("ses-", "ses-ü", "ses A", "ses-A_B", " ", "func", "anat ", "ses-1/anat", "\n", "sub-sick"))
    (tree.folder() / name).mkdir(parents=True, exist_ok=True)


def odd_subject(tree: Tree) -> None:
    name = tree.pick(("sub-", "sub-é", "sub-a b", "sub-a_b", "sub-x.y", "sub-" + "z" * 200, "sub-sickest", "sub--1"))
    with suppress(OSError):
        shutil.copytree(tree.sick, tree.root / name, symlinks=True)


def empty_subject(tree: Tree) -> None:
    for path in [p for p in tree.sick.rglob("*") if p.is_symlink() or not p.is_dir()]:
        path.unlink()


def swap(tree: Tree) -> None:
    first, second = tree.image(), tree.image()
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


# --- files of the data set ------------------------------------------------------------------------


def odd_description(tree: Tree) -> None:
    tree.touches_all = True
    texts = (*TEXTS, b'{"Name": 3, "BIDSVersion": []}', b'{"Name": "x", "BIDSVersion": "1", "DatasetType": []}')
    (tree.root / "dataset_description.json").write_bytes(tree.pick(texts))


def odd_participants(tree: Tree) -> None:
    head = b"participant_id\tage"
    texts = (
        *TEXTS, b"age\n5\n", b"\t\t\n\t\n", b"participant_id", head + b"\nsub-sick\tn/a\nsub-sick\t5\n",
        head + b"\nsub-sick\t1e999\n", head + b"\nsub-sick\tnan\nsub-well\t-3\n", head + b"\tage\nsub-sick\t5\n",
        head + b"\r\nsub-sick\t\xe9\r\n",
    )  # fmt: skip
    (tree.root / "participants.tsv").write_bytes(tree.pick(texts))


def odd_ignore(tree: Tree) -> None:
    (tree.root / tree.pick((".bidsignore", "participants.json", "README", "CHANGES"))).write_bytes(tree.pick(TEXTS))


Damage = Callable[[Tree], None]
DAMAGES: tuple[Damage, ...] = (
    truncate, flip_bits, random_bytes, append_bytes, unpack_under_the_same_name, pack_twice,
    odd_header, odd_header, claim_terabytes, claim_terabytes_unpacked, flip_bits_of_the_header,
    odd_voxels, odd_affine,
    odd_fields, odd_fields, absurd_echo_time, same_odd_field_everywhere, odd_json, flip_bits_of_json, inherited_json,
    remove_files, duplicate, odd_name, odd_name, name_that_is_no_text, folder_for_file, file_for_folder, pipe_for_file,
    link, link_loop, odd_folder, odd_subject, empty_subject, swap,
    odd_description, odd_participants, odd_ignore,
)  # fmt: skip


def write_case(root: Path, seed: int) -> Tree:
    """The tree of a seed: a healthy subject, and a sick one with one to three faults."""
    rng = np.random.default_rng([seed, 20])
    session = (None, "A")[int(rng.integers(4) == 0)]
    parts = (("mag", "phase"), ("real", "imag"))[int(rng.integers(5) == 0)]
    sick = Visit("sick", session, (Gre(parts=parts),))
    write_tree(root, sick, Visit("well"))
    (root / "participants.tsv").write_text("participant_id\tage\nsub-sick\t61\nsub-well\t58\n")
    tree = Tree(root, root / "sub-sick", rng)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
        # an earlier fault may have taken away what this one needs
        with suppress(LookupError, OSError, ValueError, struct.error, EOFError):
            damage(tree)
            tree.damages.append(damage.__name__)
    return tree


# --- one run --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a run did: exit code (minus the signal that ended it), its words, time, and memory beyond the start."""

    seed: int
    damages: tuple[str, ...]
    code: int
    output: str
    seconds: float
    memory_gb: float
    broken: tuple[str, ...]

    def __str__(self) -> str:
        return f"seed {self.seed} ({', '.join(self.damages)}): exit code {self.code}, {'; '.join(self.broken)}"


def run_case(folder: Path, seed: int) -> Outcome:
    """Write the tree of ``seed`` into ``folder`` and run the program on it in a child process."""
    places = {name: folder / name for name in ("home", "tmp", "cwd")}
    for place in places.values():
        place.mkdir(parents=True)
    tree = write_case(folder / "bids", seed)
    before = list(_state(tree.root))
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _child(folder, seed, places)
    code, memory_gb = _wait(pid)
    seconds = time.monotonic() - begin
    output = (folder / "output.txt").read_text(errors="replace")
    broken = [*_broken_by(code, output, memory_gb), *_broken_files(folder, tree, code)]
    broken += [f"a file in {name}" for name, place in places.items() if any(place.iterdir())]
    if list(_state(tree.root)) != before:
        broken.append("the input was changed")
    return Outcome(seed, tuple(tree.damages), code, output, seconds, memory_gb, tuple(broken))


def _child(folder: Path, seed: int, places: dict[str, Path]) -> None:
    """Run the program and end; never returns."""
    code = 99
    try:
        os.setpgid(0, 0)
        handle = os.open(folder / "output.txt", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ |= {"HOME": str(places["home"]), "TMPDIR": str(places["tmp"])}
        os.chdir(places["cwd"])
        from qsmals.cli import main

        words = [str(folder / "bids"), str(folder / "out"), "participant", "--nprocs", "2"]
        lenient = ["--skip-bids-validation"] * (seed % 2) + ["--boilerplate-only"] * (seed % 5 > 0)
        code = main([*words, *lenient, "-w", str(folder / "work")])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 98
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int) -> tuple[int, float]:
    """Exit code and peak memory of a child, which is killed after its time; minus the signal that ended it."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        done, status, usage = os.wait4(pid, os.WNOHANG)
        if done:
            start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return os.waitstatus_to_exitcode(status), (usage.ru_maxrss - start) * 1024 / 1e9
        if time.monotonic() > deadline:
            os.killpg(pid, signal.SIGKILL)
            deadline += TIMEOUT_S
        time.sleep(0.01)


def _broken_by(code: int, output: str, memory_gb: float) -> Iterator[str]:
    if code == -signal.SIGKILL:
        yield f"a hang of more than {TIMEOUT_S:.0f} s"
    elif code not in DOCUMENTED:
        yield "an exit code that is not documented for bad input"
    if "Traceback" in output:
        yield "a traceback"
    if code and not any(word in output for word in ("ERROR", "qsmals:", "  failed  ")):
        yield "no word about why"
    if memory_gb > MEMORY_GB:
        yield f"{memory_gb:.1f} GB of memory"


def _broken_files(folder: Path, tree: Tree, code: int) -> Iterator[str]:
    left = [path.name for path in (folder / "out").rglob(".qsmals-*.partial")]
    if left:
        yield f"half-written files: {', '.join(left)}"
    known = {"bids", "out", "work", *("home", "tmp", "cwd"), "output.txt"}
    if extra := {path.name for path in folder.iterdir()} - known:
        yield f"files beside OUTPUT_DIR: {', '.join(extra)}"
    summary = folder / "out" / "logs" / "summary.json"
    subjects = json.loads(summary.read_text())["subjects"] if summary.is_file() else {}
    if code == 3 and "sub-sick" in subjects and not (folder / "out" / "sub-sick.html").is_file():
        yield "no page for the refused subject"
    if not tree.touches_all and subjects.get("sub-well", {}).get("status") == "invalid":
        yield "the healthy subject was refused with the sick one"
    if not tree.touches_all and code in (3, 4, 5) and not (folder / "out" / "logs" / "CITATION.md").is_file():
        yield "the healthy subject was not gone on with"


def _state(root: Path) -> Iterator[tuple[Path, int, int, int]]:
    """Name, kind, size and time of change of everything below ``root``, links not followed."""
    for folder, names, files in os.walk(root):
        for path in sorted(Path(folder) / name for name in (*names, *files)):
            facts = path.lstat()
            yield path, facts.st_mode, facts.st_size, facts.st_mtime_ns


def _built(plan: Any, end: Any) -> Any:
    """In place of running the graph: build it, and say that nothing of it was run."""
    from qsmals.cli.participant import Done
    from qsmals.workflows.participant import init_run_wf, node_names

    return Done((), (), tuple(sorted(node_names(init_run_wf(plan)))))


def prepare() -> None:
    """Load once what every child would load, and let the program stop where a node would be run."""
    import bids.layout  # noqa: F401
    import nibabel  # noqa: F401

    import qsmals.cli.participant
    import qsmals.cli.run
    import qsmals.reports.subject
    import qsmals.workflows.participant

    qsmals.cli.participant.execute = _built
    qsmals.cli.participant.validate = lambda bids_dir: None  # a program of its own, which stops nothing


def fuzz(folder: Path, seeds: Sequence[int]) -> Iterator[Outcome]:
    """Run every seed; folders of runs that broke no promise are removed."""
    prepare()
    for seed in seeds:
        own = folder / f"seed-{seed}"
        outcome = run_case(own, seed)
        if not outcome.broken:
            shutil.rmtree(own)
        yield outcome


def main() -> int:
    """Run the seeds that the command line asks for; returns 1 where a promise was broken."""
    first, count = int(sys.argv[1]), int(sys.argv[2])
    outcomes = []
    for outcome in fuzz(Path(sys.argv[3]).resolve(), range(first, first + count)):
        outcomes.append(outcome)
        if outcome.broken:
            print(outcome, outcome.output, sep="\n", flush=True)
    codes: dict[int, int] = {}
    for outcome in outcomes:
        codes[outcome.code] = codes.get(outcome.code, 0) + 1
    seen = len({name for outcome in outcomes for name in outcome.damages})
    said = ", ".join(f"{n} ended in {code}" for code, n in sorted(codes.items()))
    slowest = max(outcome.seconds for outcome in outcomes)
    print(f"{len(outcomes)} trees with {seen} kinds of faults: {said}; the slowest took {slowest:.1f} s")
    return int(any(outcome.broken for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
