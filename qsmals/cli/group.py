"""The group level: every subject's region tables in one tidy table per atlas and map."""

import logging
from pathlib import Path

from qsmals.settings import Settings

log = logging.getLogger("qsmals")


def group(settings: Settings) -> int:
    """Collect the tables of OUTPUT_DIR, write the study's page; returns the exit code (5 where a subject has none)."""
    from qsmals.bids.group import collect_tables, read_participants
    from qsmals.bids.naming import strip_prefix
    from qsmals.cli.writing import collect_citation
    from qsmals.engine.summary import read_summary
    from qsmals.reports.assess import read_limits
    from qsmals.reports.group import write_group_report

    output_dir, bids_dir = Path(settings.output_dir), Path(settings.bids_dir)
    chosen = settings.selection.participant_label or None
    thresholds = settings.behaviour.qc_thresholds
    limits = read_limits(Path(thresholds) if thresholds else None)
    collected = collect_tables(output_dir, bids_dir=bids_dir, participant_labels=chosen)
    for warning in collected.warnings:
        log.warning("%s", warning)
    for table in collected.tables:
        log.info("wrote %s", table)
    people, dictionary, _ = read_participants(bids_dir)
    report = write_group_report(
        output_dir,
        people=people,
        dictionary=dictionary,
        summary=read_summary(output_dir / "logs" / "summary.json"),
        labels=[f"sub-{strip_prefix(label, 'sub')}" for label in chosen] if chosen else None,
        limits=limits,
        warnings=collected.warnings,
    )
    collect_citation(output_dir, dict.fromkeys(row.identity["participant_id"] for row in report.rows))
    log.info("wrote %s", report.table)
    log.info("wrote %s: %s", report.path, ", ".join(f"{n} {word}" for word, n in sorted(report.verdicts.items())))
    log.info("%d participants in the tables", len(collected.participants))
    if collected.without_tables:
        log.warning("without tables: %s", ", ".join(collected.without_tables))
        return 5
    return 0
