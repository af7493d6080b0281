"""The group level: every subject's region tables in one tidy table per atlas and map."""

import logging
from pathlib import Path

from qsmals.settings import Settings

log = logging.getLogger("qsmals")


def group(settings: Settings) -> int:
    """Collect the tables of OUTPUT_DIR; returns the exit code (5 where a subject has none)."""
    from qsmals.bids.group import collect_tables

    collected = collect_tables(
        Path(settings.output_dir),
        bids_dir=Path(settings.bids_dir),
        participant_labels=settings.selection.participant_label or None,
    )
    for warning in collected.warnings:
        log.warning("%s", warning)
    for table in collected.tables:
        log.info("wrote %s", table)
    log.info("%d participants in the tables", len(collected.participants))
    if collected.without_tables:
        log.warning("without tables: %s", ", ".join(collected.without_tables))
        return 5
    return 0
