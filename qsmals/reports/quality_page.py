"""The manual's page on quality: ``python -m qsmals.reports.quality_page > docs/quality.md``."""

from qsmals.qc.limits import LIMITS, Limit
from qsmals.qc.measures import ECHO_MEASURES, MEASURES, Measure

HEAD = """# Quality measures and verdicts

Written by `python -m qsmals.reports.quality_page` from the tables of the program; do not edit by hand.

At the end of each scan its quality is measured and written to `[...]_desc-qc_Chimap.json`. The verdict of a scan
is **fail** when a measure is beyond its limit to fail, when a step failed or when there is no map; **check** when a
measure is beyond its limit to check, when the run warned of something, when outputs are missing, or when nothing
tells the sign of the map (no pallidum, no order of regions, and a phase sign that the field of the head did not tell
with certainty); and **pass** otherwise. A subject has the worst verdict of its scans. Page, group page,
`logs/summary.json` and `group/desc-qc_Chimap.tsv` show the same verdict, with each reason in one sentence.

[planted_faults.md](planted_faults.md) has the verdicts on clean simulated heads and on heads with planted faults, and
how far each measure stays from its limits there. Below stands for each limit what clean simulated heads have, why the
limit lies where it does, and which planted faults go beyond it. Patients had no part in any limit, and a limit that no
planted fault exercises is not known to work.

A measure that does not apply (one echo, air blanked by the scanner, a template not used, regions of other names) is
`null` in the file and is no reason against a scan. The verdict lists the measures that have limits and were not judged.

## Other limits

The limits below are replaced, one by one, by a TOML file given with `--qc-thresholds FILE` at either level; with
`--reports-only` the pages are written anew without any processing. Every page then names the measures whose limits the
file set. A limit to check that is laxer than the limit to fail is refused: give both.

```toml
[snr_first]
check = 20
fail = 10

[asymmetry]
check = "off"
```

## Measures
"""
FOOT = """
## Content of the file

`Measures` (number or null), `Details` (which region or echo), `Echoes` (one number an echo: {echoes}),
`JumpCentreMm` (scanner coordinates of the largest group of residual jumps), `Coverage` (share of each region's voxels
that was measured), and `Definitions` (name, description, unit and source of every measure).
"""


def quality_page() -> str:
    """All measures by group with definition, unit, limits and their origin, as Markdown."""
    groups: dict[str, list[str]] = {}
    for name, measure in MEASURES.items():
        groups.setdefault(measure.group, []).append(_measure(name, measure, LIMITS.get(name)))
    text = "".join(f"\n### {title}\n{''.join(lines)}" for title, lines in groups.items())
    echoes = ", ".join(f"`{name}`" for name in ECHO_MEASURES)
    return HEAD + text + FOOT.format(echoes=echoes)


def _measure(name: str, measure: Measure, limit: Limit | None) -> str:
    unit = f" ({measure.unit})" if measure.unit else ""
    lines = [f"\n**{measure.title}**{unit}, `{name}`. {measure.definition}. Source: {measure.source}."]
    if limit is not None:
        bounds = [
            f"{word} {limit.bound(b)}" for word, b in (("check", limit.check), ("fail", limit.fail)) if b is not None
        ]
        lines.append(f"Limits: {', '.join(bounds)}; {limit.origin}; {_exercised(limit)}.")
    else:
        lines.append("No limits.")
    return " ".join(lines) + "\n"


def _exercised(limit: Limit) -> str:
    """Which planted faults go beyond a limit, by their names in planted_faults.md."""
    names = ", ".join(f"“{name}”" for name in limit.faults)
    if not names:
        return "not exercised by a planted fault"
    return f"exercised by the planted fault{'s' if len(limit.faults) > 1 else ''} {names}"


if __name__ == "__main__":
    print(quality_page(), end="")
