"""The manual's page on methods, from the registries: ``python -m qsmals.reports.methods > docs/methods.md``."""

from dataclasses import MISSING, fields

from qsmals.recon.method import Method, Registry
from qsmals.recon.stages import STAGES

TITLES = {
    "phase_offset": "Phase offset",
    "unwrap": "Unwrapping",
    "field": "Total field",
    "mask": "Mask",
    "background": "Background field removal",
    "inversion": "Dipole inversion",
    "relaxometry": "Relaxometry",
}
HEAD = """# Methods

Written by `python -m qsmals.reports.methods` from the registries of the program; do not edit by hand. The first
method of a stage is its default. Parameters are changed in a file given with `--config-file`, under
`[reconstruction.parameters.NAME]`.
"""


def methods_page() -> str:
    """All stages, their methods, and each method's parameters with unit, default and source, as Markdown."""
    return HEAD + "".join(_stage(TITLES[name], name, registry) for name, registry in STAGES.items())


def _stage(title: str, name: str, registry: Registry) -> str:
    option = f"--{name.replace('_', '-')}"
    return f"\n## {title} (`{option}`)\n" + "".join(_method(registry[key]) for key in registry)


def _method(method: Method) -> str:
    lines = [f"\n### {method.title} (`{method.name}`)\n"]
    for paper in method.citations:
        lines.append(f"- {paper.authors}. {paper.title}. *{paper.journal}* ({paper.year}). doi:{paper.doi}")
    rows = fields(method.parameters)
    if rows:
        lines += ["", "| parameter | default | unit | source |", "|---|---|---|---|"]
    for row in rows:
        default = row.default if row.default is not MISSING else "required"
        lines.append(
            f"| `{row.name}` | {default} | {row.metadata.get('unit', '')} | {row.metadata.get('source', '')} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(methods_page(), end="")
