"""Papers about standards, software, templates and atlases; those about a reconstruction method are with the method."""

from qsmals.recon.method import Citation
from qsmals.recon.presets import CONSENSUS_PAPER

CONSENSUS = CONSENSUS_PAPER
BIDS = Citation(
    key="bids",
    authors="Gorgolewski, Krzysztof J. and Auer, Tibor and Calhoun, Vince D. and others",
    title="The brain imaging data structure, a format for organizing and describing outputs of neuroimaging "
    "experiments",
    journal="Scientific Data 3:160044",
    year=2016,
    doi="10.1038/sdata.2016.44",
)
NIPYPE = Citation(
    key="nipype",
    authors="Gorgolewski, Krzysztof and Burns, Christopher D. and Madison, Cindee and Clark, Dav and "
    "Halchenko, Yaroslav O. and Waskom, Michael L. and Ghosh, Satrajit S.",
    title="Nipype: a flexible, lightweight and extensible neuroimaging data processing framework in Python",
    journal="Frontiers in Neuroinformatics 5:13",
    year=2011,
    doi="10.3389/fninf.2011.00013",
)
NIBABEL = Citation(
    key="nibabel",
    authors="Brett, Matthew and Markiewicz, Christopher J. and Hanke, Michael and others",
    title="nipy/nibabel",
    journal="Zenodo",
    year=2024,
    doi="10.5281/zenodo.591597",
)
ANTS = Citation(
    key="ants",
    authors="Avants, Brian B. and Tustison, Nicholas J. and Song, Gang and Cook, Philip A. and Klein, Arno and "
    "Gee, James C.",
    title="A reproducible evaluation of ANTs similarity metric performance in brain image registration",
    journal="NeuroImage 54:2033-2044",
    year=2011,
    doi="10.1016/j.neuroimage.2010.09.025",
)
SYN = Citation(
    key="syn",
    authors="Avants, Brian B. and Epstein, Charles L. and Grossman, Murray and Gee, James C.",
    title="Symmetric diffeomorphic image registration with cross-correlation: Evaluating automated labeling of "
    "elderly and neurodegenerative brain",
    journal="Medical Image Analysis 12:26-41",
    year=2008,
    doi="10.1016/j.media.2007.06.004",
)
ATROPOS = Citation(
    key="atropos",
    authors="Avants, Brian B. and Tustison, Nicholas J. and Wu, Jue and Cook, Philip A. and Gee, James C.",
    title="An open source multivariate framework for n-tissue segmentation with evaluation on public data",
    journal="Neuroinformatics 9:381-400",
    year=2011,
    doi="10.1007/s12021-011-9109-y",
)
N4 = Citation(
    key="n4",
    authors="Tustison, Nicholas J. and Avants, Brian B. and Cook, Philip A. and Zheng, Yuanjie and Egan, Alexander and "
    "Yushkevich, Paul A. and Gee, James C.",
    title="N4ITK: Improved N3 bias correction",
    journal="IEEE Transactions on Medical Imaging 29:1310-1320",
    year=2010,
    doi="10.1109/TMI.2010.2046908",
)
FREESURFER = Citation(
    key="freesurfer",
    authors="Fischl, Bruce",
    title="FreeSurfer",
    journal="NeuroImage 62:774-781",
    year=2012,
    doi="10.1016/j.neuroimage.2012.01.021",
)
MNI_NLIN6 = Citation(
    key="mni152nlin6asym",
    authors="Evans, Alan C. and Janke, Andrew L. and Collins, D. Louis and Baillet, Sylvain",
    title="Brain templates and atlases",
    journal="NeuroImage 62:911-922",
    year=2012,
    doi="10.1016/j.neuroimage.2012.01.024",
)
MNI_2009C = Citation(
    key="mni152nlin2009casym",
    authors="Fonov, Vladimir and Evans, Alan C. and Botteron, Kelly and Almli, C. Robert and McKinstry, Robert C. and "
    "Collins, D. Louis",
    title="Unbiased average age-appropriate atlases for pediatric studies",
    journal="NeuroImage 54:313-327",
    year=2011,
    doi="10.1016/j.neuroimage.2010.07.033",
)
FASTSURFER = Citation(
    key="fastsurfer",
    authors="Henschel, Leonie and Conjeti, Sailesh and Estrada, Santiago and Diers, Kersten and Fischl, Bruce and "
    "Reuter, Martin",
    title="FastSurfer - A fast and accurate deep learning based neuroimaging pipeline",
    journal="NeuroImage 219:117012",
    year=2020,
    doi="10.1016/j.neuroimage.2020.117012",
)
DESTRIEUX = Citation(
    key="destrieux",
    authors="Destrieux, Christophe and Fischl, Bruce and Dale, Anders and Halgren, Eric",
    title="Automatic parcellation of human cortical gyri and sulci using standard anatomical nomenclature",
    journal="NeuroImage 53:1-15",
    year=2010,
    doi="10.1016/j.neuroimage.2010.06.010",
)
DKT = Citation(
    key="dkt",
    authors="Klein, Arno and Tourville, Jason",
    title="101 labeled brain images and a consistent human cortical labeling protocol",
    journal="Frontiers in Neuroscience 6:171",
    year=2012,
    doi="10.3389/fnins.2012.00171",
)
DESIKAN_KILLIANY = Citation(
    key="desikan_killiany",
    authors="Desikan, Rahul S. and Ségonne, Florent and Fischl, Bruce and others",
    title="An automated labeling system for subdividing the human cerebral cortex on MRI scans into gyral based "
    "regions of interest",
    journal="NeuroImage 31:968-980",
    year=2006,
    doi="10.1016/j.neuroimage.2006.01.021",
)
AAL3 = Citation(
    key="aal3",
    authors="Rolls, Edmund T. and Huang, Chu-Chung and Lin, Ching-Po and Feng, Jianfeng and Joliot, Marc",
    title="Automated anatomical labelling atlas 3",
    journal="NeuroImage 206:116189",
    year=2020,
    doi="10.1016/j.neuroimage.2019.116189",
)
CIT168 = Citation(
    key="cit168",
    authors="Pauli, Wolfgang M. and Nili, Amanda N. and Tyszka, J. Michael",
    title="A high-resolution probabilistic in vivo atlas of human subcortical brain nuclei",
    journal="Scientific Data 5:180063",
    year=2018,
    doi="10.1038/sdata.2018.63",
)
HCPEX = Citation(
    key="hcpex",
    authors="Huang, Chu-Chung and Rolls, Edmund T. and Feng, Jianfeng and Lin, Ching-Po",
    title="An extended Human Connectome Project multimodal parcellation atlas of the human cortex and subcortical "
    "areas",
    journal="Brain Structure and Function 227:763-778",
    year=2022,
    doi="10.1007/s00429-021-02421-6",
)
DUAL_CONTRAST = Citation(
    key="dual_contrast",
    authors="Li, Xu and Chen, Lin and Kutten, Kwame and others",
    title="Multi-atlas tool for automated segmentation of brain gray matter nuclei and quantification of their "
    "magnetic susceptibility",
    journal="NeuroImage 191:337-349",
    year=2019,
    doi="10.1016/j.neuroimage.2019.02.016",
)
LOG_ODDS = Citation(
    key="log_odds",
    authors="Pohl, Kilian M. and Fisher, John and Bouix, Sylvain and others",
    title="Using the logarithm of odds to define a vector space on probabilistic atlases",
    journal="Medical Image Analysis 11:465-477",
    year=2007,
    doi="10.1016/j.media.2007.06.003",
)

TEMPLATES = {"MNI152NLin6Asym": MNI_NLIN6, "MNI152NLin2009cAsym": MNI_2009C}
SEGMENTERS = {"FreeSurfer": FREESURFER, "FastSurfer": FASTSURFER}
"""Pipelines whose segmentations may take the place of an atlas's labels."""

Parts = tuple[tuple[str, tuple[Citation, ...]], ...]
"""Regions in words, each with the papers to cite for them."""

_LIKE_FREESURFER: Parts = (
    ("the gyri of the Desikan-Killiany atlas", (DESIKAN_KILLIANY,)),
    ("FreeSurfer's subcortical structures, white matter and ventricles", (FREESURFER,)),
)
_BEYOND_FREESURFER: Parts = (
    ("the substantia nigra of HCPEx, which is that of CIT168", (HCPEX, CIT168)),
    ("the parts of pallidum and thalamus in HCPEx", (HCPEX,)),
    ("the red nucleus of AAL3, moved to its centre in CIT168", (AAL3, CIT168)),
)
ATLASES: dict[str, Parts] = {"als": (*_LIKE_FREESURFER, *_BEYOND_FREESURFER)}
"""The parts of each atlas."""

BESIDE_SEGMENTATION: dict[str, Parts] = {"als": _BEYOND_FREESURFER}
"""What remains of each atlas where a subject's own segmentation takes the place of its other labels."""
