"""Notes of the jobs that a run has in a batch system, by which the next run ends those of one that was killed.

A note lies beside the folder of its node, as ``NODE.job``, from before the submission until the job has ended.
"""

import json
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from qsmals.engine.files import write_text
from qsmals.engine.queues import QUEUES, Note, Queue, Silent, ask
from qsmals.engine.signals import check_interrupted

log = logging.getLogger(__name__)


def note_file(node_folder: str) -> Path:
    """Where the note of a node's job lies; the node empties its own folder."""
    return Path(f"{node_folder}.job")


def write_note(node_folder: str, note: Note) -> None:
    """Write or replace the note."""
    write_text(note_file(node_folder), json.dumps(asdict(note)) + "\n")


def remove_note(node_folder: str) -> None:
    """Remove the note, if there is one."""
    note_file(node_folder).unlink(missing_ok=True)


def end_earlier(nodes: Iterable[Any], *, poll_s: float, outage_s: float) -> None:
    """Cancel the jobs that an earlier run has left for ``nodes``, and wait until the last has ended.

    Two jobs would otherwise work in one folder. Only for who holds the locks of the nodes' subjects.

    Raises
    ------
    TimeoutError
        Jobs are still there, or the batch system has not answered, after ``outage_s``.
    """
    systems: dict[str, dict[Path, Note]] = {}
    for node in nodes:
        file = note_file(node.output_dir())
        if file.is_file():
            note = Note(**json.loads(file.read_text()))
            systems.setdefault(note.system, {})[file] = note
    for system, notes in systems.items():
        queue = QUEUES[system]()
        if shutil.which(queue.submit_command) is None:
            jobs = " ".join(note.job or note.name for note in notes.values())
            text = "an earlier run left jobs in %s, which cannot be asked here; cancel them, should they be there: %s"
            log.warning(text, system, jobs)
            continue
        _end(queue, notes, poll_s, outage_s)
        for file in notes:
            file.unlink(missing_ok=True)


def _end(queue: Queue, notes: dict[Path, Note], poll_s: float, outage_s: float) -> None:
    """Cancel the jobs of ``notes`` until none is left."""
    until, told = time.monotonic() + outage_s, set()
    hint = f"should none be left, remove the files *.job below {os.path.commonpath([f.parent for f in notes])}"
    while True:
        check_interrupted()
        try:
            left = sorted(queue.left(notes.values()))
            if not left:
                return
            ask(queue.cancel(left))
            state = f"jobs of an earlier run are cancelled, and their end is waited for: {' '.join(left)}"
        except Silent as silence:
            state = f"the batch system does not say whether jobs of an earlier run are left ({silence}); {hint}"
        if time.monotonic() > until:
            raise TimeoutError(f"after {outage_s:.0f} s: {state}")
        if state not in told:
            log.warning("%s", state)
        told.add(state)
        time.sleep(poll_s)
