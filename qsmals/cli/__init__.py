"""The command line: parse, run, exit codes. Nothing imports it."""

from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``qsmals``; returns the exit code."""
    from qsmals.cli.parser import parse

    request = parse(argv)
    from qsmals.cli.run import run

    return run(request)
