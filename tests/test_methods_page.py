"""The manual's page on methods is that of the registries, and every parameter says where it comes from."""

from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from qsmals.recon.method import Method
from qsmals.recon.stages import STAGES
from qsmals.reports.methods import methods_page
from qsmals.reports.quality_page import quality_page

METHODS = [registry[name] for registry in STAGES.values() for name in registry]


def test_the_page_is_up_to_date() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
    assert page.read_text() == methods_page(), "run: python -m qsmals.reports.methods > docs/methods.md"


def test_the_page_on_quality_is_up_to_date() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "quality.md"
    assert page.read_text() == quality_page(), "run: python -m qsmals.reports.quality_page > docs/quality.md"


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_parameter_has_a_default_a_source_and_tells_its_unit(method: Method) -> None:
    for parameter in fields(method.parameters):
        assert parameter.default is not MISSING, parameter.name
        assert "unit" in parameter.metadata, parameter.name
        assert parameter.metadata["source"], parameter.name
    assert method.parameters.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_cites_a_paper_and_has_words(method: Method) -> None:
    parameters = method.make_parameters()
    values = vars(parameters) | dict(getattr(parameters, "words", {}))
    assert method.sentence.format(**values)
    assert all(paper.doi.startswith("10.") for paper in method.citations)
