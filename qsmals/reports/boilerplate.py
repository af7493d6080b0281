"""The methods section of a paper, and its bibliography, from what a run did.

Every sentence about a reconstruction step comes from the :class:`~qsmals.recon.method.Method` that made it, so a
new method brings its own words and papers.
"""

import itertools
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from qsmals.bids.layout import as_number
from qsmals.bids.provenance import named
from qsmals.recon.method import Citation, Method
from qsmals.reports import references
from qsmals.reports.consensus import departures
from qsmals.reports.published import MIN_2024

SOFTWARE_NAMES = {"numpy": "NumPy", "scipy": "SciPy", "numba": "Numba", "python": "Python", "pybids": "PyBIDS"}
REFERENCES = "### References\n\n"
REGION_NAMES = {
    "brain": "the whole brain mask, which the consensus recommends as the common reference",
    "csf": "the core of the lateral ventricles, without their outermost layer of voxels",
    "wm": "the core of cerebral white matter, without its outermost layer of voxels",
    "none": "no region: the maps have the arbitrary offset of the dipole inversion",
}
_EXTRACTION = (
    "The brain was extracted in two steps: a template brain was aligned to the image by mutual information from many "
    "starts, and the brain's surface was then found in the image itself, by the intensities of fluid, grey and white "
    "matter inside the aligned template."
)
_SIGNAL = (
    "No T1-weighted scan was there: the brain was extracted from the gradient echo, as the part of the head with "
    "signal that hangs together around a template brain aligned by mutual information."
)
BRAIN_SENTENCES = {
    "template": _EXTRACTION,
    "auto": f"{_EXTRACTION} An image that showed the brain only, as seen from the brightness under its surface, was "
    "not extracted again.",
    "skip": "The {image} was given as brain-only: all of it that is not background was taken as the brain.",
    "deepbet": "The brain was extracted by deepbet, a neural network.",
    "gradient-echo": _SIGNAL,
    "gradient-echo-loss": f"{_SIGNAL} The fluid around the tissue, which loses little signal between the first and the "
    "last echo, was left out.",
    "given": "The brain mask was not made here: {mask_by} was taken over.",
}
GIVEN_FIELD = (
    "The total field was not made here: one that had been made before was taken over. The steps to a total field that "
    "follow gave the reliability and the noise of the phase, and the field itself only where the given one has no "
    "value, shifted to its level."
)
SLOPPY_SENTENCE = (
    "Brain extraction and registrations were run with low effort (option --sloppy): such results are for tests, "
    "not for a study."
)


class _Bibliography:
    """Papers in the order in which the text cites them, each once.

    ``letters`` tells apart papers that would be cited alike: "Liu et al., 2011a".
    """

    def __init__(self, letters: Mapping[str, str] | None = None) -> None:
        self._letters = letters or {}
        self._papers: dict[str, Citation] = {}

    def cite(self, *papers: Citation) -> str:
        """The parenthesis that cites ``papers``, with a leading space; empty for none."""
        kept = [self._papers.setdefault(_identity(paper), paper) for paper in papers]
        labels = [author_year(paper) + self._letters.get(_identity(paper), "") for paper in kept]
        return f" ({'; '.join(labels)})" if labels else ""

    def sorted(self) -> list[Citation]:
        """Papers by first author and year."""
        return sorted(self._papers.values(), key=lambda p: (_surnames(p.authors)[0].lower(), p.year, p.title))


def _identity(paper: Citation) -> str:
    return (paper.doi or paper.key).lower()


def _letters(papers: Sequence[Citation]) -> dict[str, str]:
    """A letter for each paper that shares authors and year with another."""
    shared = Counter(author_year(paper) for paper in papers)
    following = {label: iter(string.ascii_lowercase) for label, number in shared.items() if number > 1}
    return {_identity(p): next(following[author_year(p)]) for p in papers if author_year(p) in following}


def methods_text(
    steps: Sequence[tuple[Method, Any]],
    *,
    acquisition: Mapping[str, Any],
    anatomy: Mapping[str, Any],
    versions: Mapping[str, str],
    reference: Mapping[str, Any] | None = None,
    preset: Mapping[str, Any] | None = None,
    given_field: bool = False,
) -> tuple[str, str]:
    """Methods text of one scan, ready to paste in a paper, and the papers it cites.

    Parameters
    ----------
    steps : sequence of (Method, parameters)
        Reconstruction in the order in which it ran; parameters are the method's dataclass or a mapping.
    acquisition : mapping
        Fields of the images' sidecars under their BIDS names (``MagneticFieldStrength`` in T, ``RepetitionTime``
        in s, ``FlipAngle`` in degrees, ``Manufacturer``, ``ManufacturersModelName``, ``ReceiveCoilName``), and
        ``EchoTimes`` (list, s), ``VoxelSize`` (list, mm), ``Readout`` (``monopolar`` or ``bipolar``). What is
        missing is left out of the text.
    anatomy : mapping
        What was done with the T1w image, each key optional: ``t1w`` (False where there is none; ``decay`` then says
        whether there is a decay rate), ``bias_correction`` (bool, N4), ``brain_extraction`` (``auto``, ``template``,
        ``deepbet``, ``skip``, ``gradient-echo``, ``gradient-echo-loss`` or ``given``, by ``mask_by`` if that is known),
        ``gre_to_t1w`` (``rigid``, ``affine``, or empty where it was given), ``templates`` (list of TemplateFlow names
        to which it was registered), ``registration`` (``SyN``), ``given_templates`` (list of those whose transforms
        were given), ``atlases`` (names; those of :data:`~qsmals.reports.references.ATLASES` bring their parts and
        papers), ``segmentation`` (where the subject's own takes the place of the first atlas's labels: ``by``, a key of
        :data:`~qsmals.reports.references.SEGMENTERS` or another name, ``dkt``, whether its gyri are those of the DKT
        atlas, and ``destrieux``, whether the regions of aparc.a2009s were measured too), ``refinement``
        (``susceptibility``, ``t1w`` or ``none``), ``cortex`` (mm that cortical labels may grow), ``output_spaces``
        (list), ``sloppy`` (bool).
    versions : mapping of package to version
        ``qsmals`` is required.
    reference : mapping, optional
        ``region`` (``brain``, ``csf``, ``wm``, ``none`` or a noun phrase) and ``offsets_ppm`` (mapping of
        region to its mean susceptibility, ppm).
    preset : mapping, optional
        The published pipeline that was run: ``sentence`` without its full stop, ``citations``, and ``changes``, names
        of what was set otherwise.
    given_field : bool
        Whether the total field was made before.

    Returns
    -------
    markdown, bibtex : str
        The text cites by author and year and ends with the references; the second holds the same papers.

    Raises
    ------
    ValueError
        If a method's sentence names a parameter that it does not have, or ``versions`` has no ``qsmals``.
    """
    words = {
        "steps": steps,
        "acquisition": acquisition,
        "anatomy": anatomy,
        "versions": versions,
        "reference": reference,
        "preset": preset,
        "given_field": given_field,
    }
    return study_text({"": words})


def study_text(scans: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """Methods text of all scans of a study, and the papers it cites.

    Each paragraph is that of most scans; where it is not true of others, theirs follow it with their names.

    Parameters
    ----------
    scans : mapping of str to mapping
        Name of a scan to the arguments of :func:`methods_text`, ``steps`` among them.

    Returns
    -------
    markdown, bibtex : str
        As of :func:`methods_text`.

    Raises
    ------
    ValueError
        As of :func:`methods_text`.
    """
    if any("qsmals" not in words["versions"] for words in scans.values()):
        raise ValueError("versions must hold the version of qsmals itself")
    alike: list[tuple[Mapping[str, Any], list[str]]] = []
    for name, words in scans.items():
        names = next((names for known, names in alike if known == words), None)
        if names is None:
            alike.append((words, [name]))
        else:
            names.append(name)
    first = _Bibliography()
    _body(first, alike)
    letters = _letters(first.sorted())
    papers = _Bibliography(letters)
    body = _body(papers, alike)
    cited = papers.sorted()
    listing = "".join(f"- {_reference_line(paper, letters.get(_identity(paper), ''))}\n" for paper in cited)
    return f"## Methods\n\n{body}{REFERENCES}{listing}", bibtex(cited)


def joined_text(texts: Mapping[str, str]) -> str:
    """Methods text of a study from those of its scans, as :func:`study_text` has it.

    Parameters
    ----------
    texts : mapping of str to str
        Name of a scan to the Markdown of :func:`methods_text`.
    """
    parts, papers = {}, dict[str, None]()
    for name, text in texts.items():
        body, _, references = text.partition(REFERENCES)
        _, *split = re.split(r"^### (.+)\n\n", body, flags=re.MULTILINE)
        parts[name] = {title: words.strip() for title, words in zip(split[::2], split[1::2], strict=True)}
        papers |= dict.fromkeys(references.splitlines(keepends=True))
    titles = dict.fromkeys(title for own in parts.values() for title in own)
    told: dict[str, dict[str, list[str]]] = {title: {} for title in titles}
    for name, own in parts.items():
        for title in titles:
            told[title].setdefault(own.get(title, ""), []).append(name)
    return f"## Methods\n\n{_merged(told)}{REFERENCES}{''.join(sorted(papers))}"


def joined_bibtex(texts: Iterable[str]) -> str:
    """The entries of several BibTeX texts, each once, by their keys."""
    entries = {entry.strip() for text in texts for entry in re.split(r"^(?=@)", text, flags=re.MULTILINE)}
    return "\n".join(f"{entry}\n" for entry in sorted(entries - {""}))


def _body(papers: _Bibliography, alike: Sequence[tuple[Mapping[str, Any], Sequence[str]]]) -> str:
    """All paragraphs; ``alike`` are the words of a scan with the names of those that have the same."""
    told: dict[str, dict[str, list[str]]] = {}
    for words, names in alike:
        for title, text in _paragraphs(papers, **words):
            told.setdefault(title, {}).setdefault(text, []).extend(names)
    return _merged(told)


def _merged(told: Mapping[str, Mapping[str, Sequence[str]]]) -> str:
    """All paragraphs, from each one's texts and the names of the scans of which they are true."""
    body = ""
    for title, texts in told.items():
        (most, _), *others = sorted(texts.items(), key=lambda entry: -len(entry[1]))
        total = sum(map(len, texts.values()))
        told_apart = [f"{_scan_words(names, total)} instead: {text or 'nothing of this.'}" for text, names in others]
        if paragraphs := [text for text in (most, *told_apart) if text]:
            body += f"### {title}\n\n" + "".join(f"{text}\n\n" for text in paragraphs)
    return body


def _scan_words(names: Sequence[str], total: int) -> str:
    """Some of the scans in running text.

    Examples
    --------
    >>> _scan_words(["sub-01", "sub-07"], 30)
    'In 2 of 30 scans (sub-01, sub-07)'
    """
    return f"In {len(names)} of {total} scans ({named(names)})"


def _paragraphs(
    papers: _Bibliography,
    *,
    steps: Sequence[tuple[Method, Any]],
    acquisition: Mapping[str, Any],
    anatomy: Mapping[str, Any],
    versions: Mapping[str, str],
    reference: Mapping[str, Any] | None = None,
    preset: Mapping[str, Any] | None = None,
    given_field: bool = False,
) -> list[tuple[str, str]]:
    """Title and text of each paragraph about a scan; a text may be empty."""
    return [
        ("Overview", _overview(versions, papers)),
        ("Acquisition", _acquisition(acquisition)),
        ("Susceptibility mapping", _reconstruction(steps, reference or {}, preset or {}, papers, given_field)),
        ("Anatomy and regions", _anatomy(anatomy, papers)),
        ("Software", _software(versions, papers)),
    ]


def bibtex(papers: Iterable[Citation]) -> str:
    """BibTeX entries, in the order given; a key that two papers share gets a letter at its second use."""
    entries, used = [], set()
    for paper in papers:
        keys = [paper.key, *(paper.key + letter for letter in string.ascii_lowercase[1:])]
        key = next(key for key in keys if key not in used)
        used.add(key)
        entries.append(_bibtex_entry(replace(paper, key=key)))
    return "\n".join(entries)


def author_year(paper: Citation) -> str:
    """How running text cites a paper.

    Examples
    --------
    >>> author_year(references.FREESURFER), author_year(references.SYN)
    ('Fischl, 2012', 'Avants et al., 2008')
    """
    names = _surnames(paper.authors)
    if len(names) > 2 or (len(names) == 2 and names[1] == "others"):
        return f"{names[0]} et al., {paper.year}"
    return f"{' and '.join(names)}, {paper.year}"


def join_words(words: Sequence[str]) -> str:
    """A list in running text.

    Examples
    --------
    >>> join_words(["a"]), join_words(["a", "b"]), join_words(["a", "b", "c"])
    ('a', 'a and b', 'a, b, and c')
    """
    if len(words) < 3:
        return " and ".join(words)
    return f"{', '.join(words[:-1])}, and {words[-1]}"


def _overview(versions: Mapping[str, str], papers: _Bibliography) -> str:
    return (
        f"Susceptibility maps and regional values were computed with qsmals {versions['qsmals']}, a BIDS App for "
        f"quantitative susceptibility mapping (QSM) in amyotrophic lateral sclerosis. Input and output follow the "
        f"Brain Imaging Data Structure{papers.cite(references.BIDS)}. What is reported, and the "
        f"whole brain as reference, follow the recommendations of the QSM consensus{papers.cite(references.CONSENSUS)}."
    )


def _acquisition(facts: Mapping[str, Any]) -> str:
    """One sentence about the gradient-echo scan from the fields that are known; empty without echo times."""
    echoes = [1000 * float(t) for t in facts.get("EchoTimes") or ()]
    if not echoes:
        return ""
    field = f" at {float(facts['MagneticFieldStrength']):.4g} T" if facts.get("MagneticFieldStrength") else ""
    scanner = " ".join(str(facts[key]) for key in ("Manufacturer", "ManufacturersModelName") if facts.get(key))
    on = f" on a {scanner} scanner" if scanner else ""
    coil = f" with the {facts['ReceiveCoilName']} receive coil" if facts.get("ReceiveCoilName") else ""
    kind = "Multi-echo" if len(echoes) > 1 else "Single-echo"
    readout = f" with {facts['Readout']} readout" if facts.get("Readout") else ""
    details = [f"{len(echoes)} echoes, {_echo_words(echoes)}" if len(echoes) > 1 else f"TE = {echoes[0]:.4g} ms"]
    if tr_s := as_number(facts.get("RepetitionTime")):
        details.append(f"TR = {1000 * tr_s:.4g} ms")
    if angle := as_number(facts.get("FlipAngle")):
        details.append(f"flip angle = {angle:.4g}°")
    if facts.get("VoxelSize"):
        details.append("voxel size = " + " × ".join(f"{float(v):.3g}" for v in facts["VoxelSize"]) + " mm³")
    return f"{kind} gradient-echo data{readout} were acquired{field}{on}{coil} ({'; '.join(details)})."


def _echo_words(echoes_ms: Sequence[float]) -> str:
    spacing = [b - a for a, b in itertools.pairwise(echoes_ms)]
    first, last = f"{echoes_ms[0]:.4g}", f"{echoes_ms[-1]:.4g}"
    if max(spacing) - min(spacing) < 0.02:
        return f"first TE = {first} ms, last TE = {last} ms, spacing = {sum(spacing) / len(spacing):.3g} ms"
    return "TE = " + ", ".join(f"{t:.4g}" for t in echoes_ms) + " ms"


def _reconstruction(
    steps: Sequence[tuple[Method, Any]],
    reference: Mapping[str, Any],
    preset: Mapping[str, Any],
    papers: _Bibliography,
    given_field: bool,
) -> str:
    sentences, around = _preset_sentences(preset, papers), ""
    sentences += [GIVEN_FIELD] if given_field else []
    for method, parameters in steps:
        around = _words(parameters).get("around", around)
        if (method.beyond_brain or method.total_field) and around:
            sentences.append(around)
        sentences.append(_step_sentence(method, parameters, papers))
    return " ".join([*sentences, *_departures(steps), *_reference_sentences(reference)])


def _departures(steps: Sequence[tuple[Method, Any]]) -> list[str]:
    """A sentence on where the steps depart from the consensus; none where they do not."""
    from qsmals.recon.stages import STAGES

    stages = {
        stage: method
        for method, _ in steps
        for stage, registry in STAGES.items()
        if method.name in registry and registry[method.name] == method
    }
    names = {stage: method.name for stage, method in stages.items()}
    sentence = departures(names, {stage: method.title for stage, method in stages.items()})
    return [sentence] if sentence else []


def _preset_sentences(preset: Mapping[str, Any], papers: _Bibliography) -> list[str]:
    if not preset:
        return []
    changes = [str(change).replace("_", " ") for change in preset["changes"]]
    but = f"; set otherwise: {join_words(changes)}" if changes else ""
    return [f"{preset['sentence']}{papers.cite(*preset['citations'])}{but}."]


def _words(parameters: Any) -> Mapping[str, str]:
    """What a method's parameters say in words, if they say anything."""
    words: Mapping[str, str] = getattr(parameters, "words", {})
    return words


def _step_sentence(method: Method, parameters: Any, papers: _Bibliography) -> str:
    """The method's sentence with its parameters filled in and its papers before the full stop."""
    values = (
        {f.name: getattr(parameters, f.name) for f in fields(parameters)}
        if is_dataclass(parameters)
        else dict(parameters or {})
    )
    try:
        filled = {k: _value_words(v) for k, v in values.items()} | dict(_words(parameters))
        sentence = method.sentence.format(**filled).strip()
    except (KeyError, IndexError, ValueError) as error:
        known = ", ".join(sorted(values)) or "none"
        raise ValueError(
            f"the sentence of {method.name} does not fit its parameters ({error}); they are {known}"
        ) from None
    return sentence.rstrip(".") + papers.cite(*method.citations) + "."


class _Number(float):
    """A number that prints short without a format, and as asked with one."""

    def __format__(self, spec: str) -> str:
        return format(float(self), spec or ".6g")

    def __str__(self) -> str:
        return format(float(self), ".6g")


def _value_words(value: Any) -> Any:
    """A parameter as running text shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return _Number(value)
    if isinstance(value, tuple | list):
        return join_words([str(_value_words(item)) for item in value])
    return value


def _reference_sentences(reference: Mapping[str, Any]) -> list[str]:
    region = reference.get("region")
    if not region:
        return []
    name = REGION_NAMES.get(region, region)
    sentences = [
        f"Susceptibility refers to {name}." if region == "none" else f"Susceptibility is given relative to {name}."
    ]
    offsets = {k: float(v) for k, v in (reference.get("offsets_ppm") or {}).items() if v is not None and k != region}
    if offsets:
        words = [f"{1000 * v:.1f}".replace("-", "−") + f" ppb in {_plain_region(k)}" for k, v in offsets.items()]
        sentences.append(
            f"The mean susceptibility under this reference was {join_words(words)}; subtracting such a value "
            "re-references the maps and tables."
        )
    return sentences


def _plain_region(name: str) -> str:
    words = {
        "brain": "the whole brain mask",
        "csf": "the core of the lateral ventricles",
        "wm": "the core of cerebral white matter (one voxel in)",
    }
    return words.get(name, name.replace("_", " "))


def _anatomy(facts: Mapping[str, Any], papers: _Bibliography) -> str:
    sentences = []
    if facts.get("bias_correction"):
        sentences.append(f"The {_image(facts)} was corrected for bias with N4{papers.cite(references.N4)}.")
    if facts.get("brain_extraction"):
        mask_by = f"that of {facts['mask_by']}" if facts.get("mask_by") else "one that had been made before"
        sentences.append(BRAIN_SENTENCES[facts["brain_extraction"]].format(image=_image(facts), mask_by=mask_by))
    if facts.get("gre_to_t1w") == "":
        sentences.append("The transform of the gradient echo to the T1-weighted image was made before and judged here.")
    if facts.get("gre_to_t1w"):
        cited = papers.cite(references.ANTS)
        sentences.append(
            f"The gradient-echo magnitude was registered to the T1-weighted image by a {facts['gre_to_t1w']} "
            f"transform with ANTs{cited}."
        )
    if facts.get("templates"):
        sentences.append(_template_sentence(facts, papers))
    if facts.get("given_templates"):
        names = _template_names(facts["given_templates"], papers)
        sentences.append(f"The transforms of the {_image(facts)} to {names} were made before and judged here.")
    if facts.get("segmentation"):
        sentences.append(_segmentation_sentence(facts["segmentation"], papers))
    if facts.get("atlases"):
        sentences.append(_atlas_sentence(facts, papers))
    if facts.get("refinement"):
        sentences.append(_refinement_sentence(facts, papers))
    if facts.get("cortex"):
        sentences.append(
            f"Cortical labels were confined to the grey matter of the T1-weighted image (Atropos"
            f"{papers.cite(references.ATROPOS)}) and extended to grey matter within {facts['cortex']:g} mm."
        )
    if facts.get("output_spaces"):
        sentences.append(f"Maps were also resampled once to {join_words([str(s) for s in facts['output_spaces']])}.")
    if facts.get("sloppy"):
        sentences.append(SLOPPY_SENTENCE)
    return " ".join(sentences)


def _image(facts: Mapping[str, Any]) -> str:
    """What the brain was found on."""
    return "T1-weighted image" if facts.get("t1w", True) else "gradient-echo magnitude"


def _template_sentence(facts: Mapping[str, Any], papers: _Bibliography) -> str:
    names = _template_names(facts["templates"], papers)
    if str(facts.get("registration", "SyN")).lower().startswith("syn"):
        how = f"by symmetric diffeomorphic normalization (SyN){papers.cite(references.SYN)}"
    else:
        how = f"by {facts['registration']}"
    return f"The {_image(facts)} was registered to {names} {how}{_metric(facts)}."


def _template_names(templates: Sequence[str], papers: _Bibliography) -> str:
    """Templates with their papers, in running text."""
    known = references.TEMPLATES
    return join_words([f"the {t} template{papers.cite(known[t]) if t in known else ''}" for t in templates])


def _segmentation_sentence(facts: Mapping[str, Any], papers: _Bibliography) -> str:
    """Whose labels take the place of the atlas's."""
    by, gyri = str(facts.get("by") or ""), "the Desikan-Killiany atlas"
    cited = papers.cite(*(paper for name, paper in references.SEGMENTERS.items() if name == by))
    atlas = references.DESIKAN_KILLIANY
    if facts.get("dkt"):
        gyri, atlas = "the Desikan-Killiany-Tourville atlas", references.DKT
    sentence = (
        f"Regions are those of the subject's own {by or 'given'} segmentation{cited}, with the gyri of "
        f"{gyri}{papers.cite(atlas)}"
    )
    if facts.get("destrieux"):
        sentence += f", and its gyri and sulci of aparc.a2009s{papers.cite(references.DESTRIEUX)}"
    return f"{sentence}."


def _metric(facts: Mapping[str, Any]) -> str:
    """By what the registration to the template compared the images."""
    images = "" if facts.get("t1w", True) or not facts.get("decay", True) else " of its magnitude and of its decay rate"
    return f", by mutual information{images}"


def _atlas_sentence(facts: Mapping[str, Any], papers: _Bibliography) -> str:
    known, start, them = references.ATLASES, "The regions are", "They were"
    if facts.get("segmentation"):
        known, them = references.BESIDE_SEGMENTATION, "All were"
        start = (
            "To them were added, with substantia nigra and red nucleus confined to its brainstem and ventral "
            "diencephalon, and parts to the regions that they divide"
        )
    parts = [part for atlas in facts["atlases"] for part in known.get(atlas, ((f"those of the atlas {atlas}", ()),))]
    words = "; ".join(name + papers.cite(*cited) for name, cited in parts)
    return (
        f"{start}: {words}. {them} brought to the gradient-echo grid in one interpolation, "
        "and every statistic was computed there."
    )


def _refinement_sentence(facts: Mapping[str, Any], papers: _Bibliography) -> str:
    own = bool(facts.get("segmentation"))
    if own and facts["refinement"] != "susceptibility":
        return "Substantia nigra and red nucleus were placed by registration alone."
    if facts["refinement"] == "none":
        return f"Every region was placed by the {_image(facts)} alone."
    image, intensity = "T1-weighted images were", "T1-weighted"
    if not facts.get("t1w", True):
        image, intensity = "gradient-echo magnitude and the template were", "the magnitude's"
    fit = (
        f"with the distance to the atlas's labels as log-odds{papers.cite(references.LOG_ODDS)}, means learned inside "
        "those labels, and one spread for all."
    )
    if facts["refinement"] == "t1w":
        return f"The borders of thalamus, caudate, hippocampus and amygdala were fitted to {intensity} intensity, {fit}"
    deformed = (
        "Around the deep nuclei the atlas was deformed once more (SyN, local correlation), until the susceptibility "
        f"that its labels let expect{papers.cite(MIN_2024)} fitted the subject's map; the {image} a "
        f"second pair with a quarter of the weight{papers.cite(references.DUAL_CONTRAST)}."
    )
    if own:
        return f"{deformed} The borders of substantia nigra and red nucleus were then fitted to susceptibility, {fit}"
    return (
        f"{deformed} The borders of the deep nuclei were then fitted to susceptibility, those of thalamus, hippocampus "
        f"and amygdala to {intensity} intensity as well, {fit}"
    )


def _software(versions: Mapping[str, str], papers: _Bibliography) -> str:
    ants = versions.get("ants") or versions.get("antspyx")
    cited = [("Nipype", versions.get("nipype"), references.NIPYPE), ("ANTsPy", ants, references.ANTS)]
    cited.append(("NiBabel", versions.get("nibabel"), references.NIBABEL))
    names = [f"{name} {version}" if version else name for name, version, _ in cited]
    names = [name + papers.cite(paper) for name, (_, _, paper) in zip(names, cited, strict=True)]
    others = {k: v for k, v in versions.items() if k not in ("qsmals", "nipype", "ants", "antspyx", "nibabel")}
    names += [f"{SOFTWARE_NAMES.get(package, package)} {version}" for package, version in others.items()]
    return f"The workflow runs on {join_words(names)}."


def _surnames(authors: str) -> list[str]:
    """Family names from BibTeX ("Last, First and Last, First") or Vancouver ("Last FM, Last F") lists.

    Examples
    --------
    >>> _surnames("Dymerska B, de Rochefort L, et al."), _surnames("Avants, Brian B. and Gee, James C.")
    (['Dymerska', 'de Rochefort', 'others'], ['Avants', 'Gee'])
    """
    return [person.split(",")[0].strip("{} ") for person in _people(authors)]


def _people(authors: str) -> list[str]:
    """Each author as BibTeX writes one: "Last, First", with "others" for et al."""
    text = re.sub(r",?\s*(et al\.?|and others)\s*$", "", authors.strip())
    more = ["others"] if text != authors.strip() else []
    pieces = [piece.strip() for piece in re.split(r",|\s+and\s+|&|;", text) if piece.strip()]
    vancouver = [re.fullmatch(r"(.+?)\s+([A-Z][A-Z.\- ]{0,5})", piece) for piece in pieces]
    if all(vancouver):
        return [f"{match[1]}, {match[2]}" for match in vancouver if match] + more
    people = [person.strip() for person in re.split(r"\s+and\s+|;", text)]
    return [person if "," in person or "{" in person else _last_first(person) for person in people] + more


def _last_first(person: str) -> str:
    *given, last = person.split()
    return f"{last}, {' '.join(given)}" if given else last


def _reference_line(paper: Citation, letter: str) -> str:
    """A paper in the list of references."""
    people = [_short_name(person) for person in _people(paper.authors)]
    shown = [person for person in people if person != "others"]
    names = ", ".join(shown[:6]) + (", et al." if len(people) > len(shown) or len(shown) > 6 else "")
    title = paper.title if paper.title[-1:] in "?!." else f"{paper.title}."
    journal, place = _journal(paper)
    link = f" https://doi.org/{paper.doi}" if paper.doi else ""
    return f"{names.rstrip('.')}. {title} *{journal}*{f' {place}' if place else ''} ({paper.year}{letter}).{link}"


def _short_name(person: str) -> str:
    """An author with initials.

    Examples
    --------
    >>> _short_name("Avants, Brian B."), _short_name("Chan, Kwok-Shing"), _short_name("{QSM Committee}")
    ('Avants BB', 'Chan KS', 'QSM Committee')
    """
    if "," not in person:
        return person.strip("{}")
    last, given = person.split(",", 1)
    if given.strip().isupper():
        return f"{last} {re.sub(r'[^A-Z]', '', given)}"
    return f"{last} {''.join(part[0] for part in re.split(r'[ .-]+', given) if part)}"


def _journal(paper: Citation) -> tuple[str, str]:
    """Name of the journal, and volume with pages where the citation has them ("NeuroImage 54:2789-2807")."""
    match = re.fullmatch(r"(.+?),?\s+(\d+(?:\(\w+\))?:\S+)", paper.journal)
    return (match[1], match[2]) if match else (paper.journal, "")


def _bibtex_entry(paper: Citation) -> str:
    journal, place = _journal(paper)
    volume, _, pages = place.partition(":")
    lines = {
        "author": " and ".join(_people(paper.authors)),
        "title": "{" + paper.title + "}",
        "journal": journal,
        "volume": volume.partition("(")[0],
        "pages": re.sub(r"(?<=\w)[-–](?=\w)", "--", pages),
        "year": str(paper.year),
        "doi": paper.doi,
    }
    escaped = {k: v if k == "doi" else re.sub(r"(?<!\\)([&%#_$])", r"\\\1", v) for k, v in lines.items() if v}
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in escaped.items())
    return f"@article{{{paper.key},\n{body}\n}}\n"
