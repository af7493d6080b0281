"""Methods text and bibliography."""

import re
from dataclasses import dataclass

import pytest

from qsmals.recon.method import Citation, Method
from qsmals.recon.stages import STAGES
from qsmals.reports import references
from qsmals.reports.boilerplate import _acquisition, author_year, bibtex, methods_text, study_text

ROMEO_PAPER = Citation(
    "romeo",
    "Dymerska B, Eckstein K, Bachrata B, et al.",
    "Phase unwrapping with a rapid opensource minimum spanning tree algorithm (ROMEO)",
    "Magnetic Resonance in Medicine",
    2021,
    "10.1002/mrm.28563",
)
VSHARP_PAPER = Citation(
    "vsharp", "Wu, B. and Li, W. and Guidon, A. and Liu, C.", "Whole brain QSM & more", "MRM", 2012, "10.1002/mrm.23000"
)


@dataclass(frozen=True)
class RomeoParameters:
    weights: tuple[str, ...] = ("phase coherence", "magnitude")
    correct_global: bool = True


@dataclass(frozen=True)
class VsharpParameters:
    radius_mm: float = 12.0
    threshold: float = 0.05
    radii_mm: tuple[float, ...] = (12.0, 6.5, 1.0)


def nothing() -> None:
    """Stands where a kernel would."""


ROMEO = Method(
    "romeo", "ROMEO", nothing, RomeoParameters, "Phase was unwrapped with ROMEO on {weights}.", (ROMEO_PAPER,)
)
VSHARP = Method(
    "v-sharp",
    "V-SHARP",
    nothing,
    VsharpParameters,
    "Background fields were removed with V-SHARP (largest radius {radius_mm:g} mm, threshold {threshold}, {radii_mm}).",
    (VSHARP_PAPER, ROMEO_PAPER),
)
ACQUISITION = {
    "MagneticFieldStrength": 3,
    "Manufacturer": "Siemens",
    "ManufacturersModelName": "Prisma",
    "RepetitionTime": 0.035,
    "FlipAngle": 15,
    "EchoTimes": [0.004, 0.009, 0.014, 0.019],
    "VoxelSize": [1.0, 1.0, 1.0],
    "Readout": "monopolar",
}
ANATOMY = {
    "bias_correction": True,
    "brain_extraction": "auto",
    "gre_to_t1w": "rigid",
    "templates": ["MNI152NLin6Asym", "MNI152NLin2009cAsym"],
    "registration": "SyN",
    "atlases": ["als", "mine"],
    "refinement": "susceptibility",
}
VERSIONS = {"qsmals": "1.2.3", "nipype": "1.11.0", "antspyx": "0.6.3", "nibabel": "5.4.2", "numpy": "2.3.5"}


def text(**changes):
    arguments = {
        "steps": [
            (ROMEO, RomeoParameters()),
            (VSHARP, {"radius_mm": 12.0, "threshold": 0.05, "radii_mm": (12.0, 6.5)}),
        ],
        "acquisition": ACQUISITION,
        "anatomy": ANATOMY,
        "versions": VERSIONS,
        "reference": {"region": "brain", "offsets_ppm": {"brain": 0.0, "csf": 0.0191, "wm": -0.0123}},
    } | changes
    return methods_text(arguments.pop("steps"), **arguments)


def test_the_steps_stand_in_order_with_values_and_papers():
    markdown, _ = text()
    assert (
        "Phase was unwrapped with ROMEO on phase coherence and magnitude (Dymerska et al., 2021). Background fields "
        "were removed with V-SHARP (largest radius 12 mm, threshold 0.05, 12 and 6.5) (Wu et al., 2012; Dymerska et "
        "al., 2021)."
    ) in markdown


def test_departures_from_the_consensus_are_told_with_their_reason():
    chosen = {"unwrap": "romeo", "background": "lbv", "inversion": "weak-harmonic"}
    steps = [(STAGES[stage][name], STAGES[stage][name].make_parameters()) for stage, name in chosen.items()]
    markdown, _ = methods_text(steps, acquisition={}, anatomy={}, versions={"qsmals": "1.0"})
    sentence = "differs from the recommendations of the consensus in background field removal (LBV in place of"
    assert sentence in markdown and "PDF), because LBV" in markdown and "phase unwrapping (" not in markdown
    steps[1] = STAGES["background"]["pdf"], STAGES["background"]["pdf"].make_parameters()
    assert "differs" not in methods_text(steps, acquisition={}, anatomy={}, versions={"qsmals": "1.0"})[0]


def test_acquisition_reads_as_a_sentence():
    markdown, _ = text()
    assert (
        "Multi-echo gradient-echo data with monopolar readout were acquired at 3 T on a Siemens Prisma scanner "
        "(4 echoes, first TE = 4 ms, last TE = 19 ms, spacing = 5 ms; TR = 35 ms; flip angle = 15°; "
        "voxel size = 1 × 1 × 1 mm³)." in markdown
    )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"EchoTimes": [0.02]}, "Single-echo gradient-echo data were acquired (TE = 20 ms)."),
        ({"EchoTimes": [0.003, 0.009, 0.02]}, "(3 echoes, TE = 3, 9, 20 ms)."),
    ],
)
def test_what_is_unknown_is_left_out(facts, expected):
    markdown, _ = text(acquisition=facts)
    assert expected in markdown
    assert "### Acquisition" not in text(acquisition={})[0]


def test_reference_region_and_offsets_are_stated():
    markdown, _ = text()
    assert "relative to the whole brain mask" in markdown
    assert "19.1 ppb in the core of the lateral ventricles" in markdown
    assert "no region" in text(reference={"region": "none"})[0]


def test_anatomy_names_template_registration_and_atlases():
    markdown, bib = text()
    assert "corrected for bias with N4 (Tustison et al., 2010)" in markdown
    assert (
        "registered to the MNI152NLin6Asym template (Evans et al., 2012) and the MNI152NLin2009cAsym template "
        "(Fonov et al., 2011) by symmetric diffeomorphic normalization (SyN)" in markdown
    )
    for doi in ("10.1016/j.media.2007.06.004", "10.1109/TMI.2010.2046908", "10.1016/j.neuroimage.2006.01.021"):
        assert doi in bib and doi in markdown


def test_what_other_pipelines_did_is_told():
    words = {"brain_extraction": "given", "gre_to_t1w": "", "segmentation": {"by": "FreeSurfer"}}
    markdown, _ = text(anatomy=words)
    assert "brain mask was not made here: one that had been made before" in markdown
    assert "was made before and judged here" in markdown
    assert (
        "subject's own FreeSurfer segmentation (Fischl, 2012), with the gyri of the Desikan-Killiany atlas" in markdown
    )
    assert "deepbet, a neural network" in text(anatomy={"brain_extraction": "deepbet"})[0]


def test_regions_say_where_the_midbrain_nuclei_come_from():
    markdown, bib = text()
    assert (
        "the substantia nigra of HCPEx, which is that of CIT168 (Huang et al., 2022; Pauli et al., 2018); the parts of "
        "pallidum and thalamus in HCPEx (Huang et al., 2022); the red "
        "nucleus of AAL3, moved to its centre in CIT168 (Rolls et al., 2020; Pauli et al., 2018); those of the "
        "atlas mine. They were brought" in markdown
    )
    for doi in ("10.1038/sdata.2018.63", "10.1007/s00429-021-02421-6", "10.1016/j.neuroimage.2019.116189"):
        assert doi in bib and doi in markdown


def test_refinement_is_told_and_its_absence_too():
    markdown, bib = text()
    assert "fitted the subject's map" in markdown and "10.1016/j.neuroimage.2019.02.016" in bib
    markdown, bib = text(anatomy=ANATOMY | {"refinement": "none"})
    assert "placed by the T1-weighted image alone" in markdown and "10.1016/j.neuroimage.2019.02.016" not in bib


@pytest.mark.parametrize(
    ("mode", "said", "unsaid"),
    [
        ("auto", "was not extracted again", "given as brain-only"),
        ("template", "a template brain was aligned", "was not extracted again"),
        ("skip", "given as brain-only", "a template brain was aligned"),
    ],
)
def test_brain_extraction_is_what_the_setting_says(mode, said, unsaid):
    markdown, _ = text(anatomy=ANATOMY | {"brain_extraction": mode})
    assert said in markdown and unsaid not in markdown


def test_low_effort_is_said():
    assert "--sloppy" in text(anatomy=ANATOMY | {"sloppy": True})[0]
    assert "--sloppy" not in text(anatomy=ANATOMY | {"sloppy": False})[0]


def test_standards_and_software_are_always_cited():
    markdown, bib = methods_text([], acquisition={}, anatomy={}, versions={"qsmals": "1.0"})
    always = ("CONSENSUS", "BIDS", "NIPYPE", "ANTS", "NIBABEL")
    for paper in (getattr(references, name) for name in always):
        assert paper.doi in bib and paper.doi in markdown
    assert "qsmals 1.0" in markdown


def test_every_paper_is_listed_once_and_the_two_lists_agree():
    markdown, bib = text()
    in_text = re.findall(r"https://doi\.org/(\S+)", markdown)
    in_bib = re.findall(r"doi = \{(.+)\}", bib)
    assert len(in_text) == len(set(in_text)) and in_text == in_bib
    keys = re.findall(r"@article\{(.+),", bib)
    assert len(keys) == len(set(keys)) == len(in_bib)


def test_bibtex_is_well_formed():
    _, bib = text()
    assert bib.count("{") == bib.count("}")
    assert "Whole brain QSM \\& more" in bib
    assert "author = {Dymerska, B and Eckstein, K and Bachrata, B and others}" in bib


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        ("Fischl B", "Fischl, 2020"),
        ("Fischl, Bruce", "Fischl, 2020"),
        ("Bruce Fischl", "Fischl, 2020"),
        ("Li W, de Rochefort L", "Li and de Rochefort, 2020"),
        ("Milovic, Carlos and Bilgic, Berkin", "Milovic and Bilgic, 2020"),
        ("Acosta-Cabronero J, Milovic C and Tejos C", "Acosta-Cabronero et al., 2020"),
        ("Li W et al.", "Li et al., 2020"),
        ("{QSM Group} and Bilgic, Berkin and others", "QSM Group et al., 2020"),
    ],
)
def test_authors_in_any_common_form(authors, expected):
    paper = Citation("k", authors, "T", "J", 2020, "10.1/x")
    assert author_year(paper) == expected
    assert bibtex([paper]).count("{") == bibtex([paper]).count("}")


def test_papers_cited_alike_get_letters():
    one = Citation("a", "Li W, Wu B, Liu C", "First?", "NeuroImage 55:1645-1656", 2011, "10.1/a")
    two = Citation("b", "Li W, Liu J, Liu C", "Second", "NeuroImage", 2011, "10.1/b")
    method = Method("x", "X", nothing, RomeoParameters, "It was done.", (two, one))
    markdown, bib = text(steps=[(method, RomeoParameters())])
    assert "It was done (Li et al., 2011b; Li et al., 2011a)." in markdown
    assert "Li W, Wu B, Liu C. First? *NeuroImage* 55:1645-1656 (2011a). https://doi.org/10.1/a" in markdown
    assert "volume = {55},\n  pages = {1645--1656}" in bib


def test_a_shared_key_is_told_apart():
    papers = [Citation("li", "Li W", "T", "J", 2011, f"10.1/{n}") for n in "xyz"]
    assert re.findall(r"@article\{(\w+),", bibtex(papers)) == ["li", "lib", "lic"]


def test_a_sentence_that_does_not_fit_is_an_error():
    broken = Method("x", "X", nothing, RomeoParameters, "With {lambda_1}.", ())
    with pytest.raises(ValueError, match="sentence of x does not fit"):
        text(steps=[(broken, RomeoParameters())])
    with pytest.raises(ValueError, match="version of qsmals"):
        text(versions={})


def test_grammar_has_no_debris():
    for markdown in (text()[0], methods_text([], acquisition={}, anatomy={}, versions={"qsmals": "1"})[0]):
        assert not re.search(r"\.\.|  |None| \.| ,|\(\)", markdown.replace("et al..", "")), markdown


def test_what_differs_between_scans_is_told_with_their_names():
    common = {"steps": [], "acquisition": ACQUISITION, "versions": VERSIONS}
    given = ANATOMY | {"segmentation": {"by": "FastSurfer", "dkt": True}}
    scans = {f"sub-{n:02d}": common | {"anatomy": given if n == 7 else ANATOMY} for n in range(1, 31)}
    markdown, bib = study_text(scans)
    plain, _ = methods_text(**common, anatomy=ANATOMY)
    main, _, apart = markdown.partition("In 1 of 30 scans (sub-07) instead: ")
    assert plain.split("### Software")[0] == main, "what is true of most stands as for one scan"
    assert "FastSurfer" not in main and "FastSurfer segmentation (Henschel et al., 2020)" in apart
    assert markdown.count("scans (") == 1 and "10.1016/j.neuroimage.2020.117012" in bib
    assert (
        "more) instead"
        in study_text(
            {
                name: scans["sub-07" if n < 25 else "sub-01"]
                for n, name in enumerate([*scans, *(f"sub-{n}" for n in range(31, 61))])
            }
        )[0]
    )
    assert study_text({"a": scans["sub-01"], "b": scans["sub-01"]}) == methods_text(**common, anatomy=ANATOMY)


def test_fields_that_are_no_numbers_are_left_out() -> None:
    said = _acquisition({"EchoTimes": [0.005, 0.010], "RepetitionTime": [0.035], "FlipAngle": "odd"})
    assert "2 echoes" in said and "TR" not in said and "flip" not in said
