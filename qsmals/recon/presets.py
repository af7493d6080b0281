"""Published pipelines by name: methods and parameters that are set together.

The numbers of a preset are written out even where they are a method's default, so that no change of a default can
move it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from qsmals.recon.method import Citation


@dataclass(frozen=True)
class Preset:
    """A published pipeline.

    Attributes
    ----------
    name : str
        The word on the command line.
    sentence : str
        For the methods text, without a full stop.
    reconstruction : mapping
        The settings that it stands for: method of each stage, reference, and ``parameters`` by method.
    citations : tuple of Citation
        Where it was published.
    """

    name: str
    sentence: str
    reconstruction: Mapping[str, Any]
    citations: tuple[Citation, ...]

    def changes(self, reconstruction: Mapping[str, Any]) -> tuple[str, ...]:
        """What settings that started from the preset have otherwise: ``inversion``, ``tv.regularisation``, ...

        Parameters of methods that neither of the two uses do not count.
        """
        return tuple(self._changes(reconstruction))

    def _changes(self, other: Mapping[str, Any]) -> Iterator[str]:
        for key, value in self.reconstruction.items():
            if key != "parameters" and other[key] != value:
                yield key
        own, others = self.reconstruction["parameters"], other["parameters"]
        for method in sorted(
            {other[key] for key in self.reconstruction if key != "parameters"} & (own | others).keys()
        ):
            mine, theirs = own.get(method, {}), others.get(method, {})
            for name in sorted(mine.keys() | theirs.keys()):
                if mine.get(name) != theirs.get(name):
                    yield f"{method}.{name}"


_BEFORE_INVERSION = {
    "phase_offset": "mcpc-3d-s",
    "unwrap": "romeo",
    "field": "phase-snr",
    "mask": "brain",
    "background": "v-sharp",
    "reference": "brain",
}
_PARAMETERS_BEFORE_INVERSION = {
    "mcpc-3d-s": {"sigma_mm": 7.0},
    "romeo": {"template_echo": 1, "weights": ["phase-coherence", "gradient-coherence", "magnitude-coherence"]},
    "phase-snr": {"largest_residual": 0.3},
    "v-sharp": {
        "radii_voxels": [12.0, 11.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0],
        "erosion_voxels": 1,
        "threshold": 0.05,
    },
}
CONSENSUS_PAPER = Citation(
    key="qsm_consensus",
    authors="{QSM Consensus Organization Committee} and Bilgic, Berkin and Costagli, Mauro and Chan, Kwok-Shing and "
    "Duyn, Jeff and Langkammer, Christian and others",
    title="Recommended implementation of quantitative susceptibility mapping for clinical research in the brain: "
    "A consensus of the ISMRM electro-magnetic tissue properties study group",
    journal="Magnetic Resonance in Medicine 91:1834-1862",
    year=2024,
    doi="10.1002/mrm.30006",
)
_SENTENCE = (
    "Methods and parameters of the reconstruction are those of the {} pipeline of the QSM consensus paper, with the "
    "brain mask from the T1-weighted image, {}, and weights of at most three times their median"
)

PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="consensus",
            sentence=_SENTENCE.format("reference", "susceptibility and harmonic phase solved for at once"),
            reconstruction={
                **_BEFORE_INVERSION,
                "inversion": "nonlinear-weak-harmonic",
                "parameters": {
                    **_PARAMETERS_BEFORE_INVERSION,
                    "nonlinear-weak-harmonic": {
                        "regularisation": 5e-4,
                        "rad_per_ppm": 1.0,
                        "gradient_penalty": 5e-2,
                        "field_penalty": 1.0,
                        "harmonic_weight": 150.0,
                        "harmonic_penalty": 3.0,
                        "gradient_weighting": "vector-field",
                        "padding_mm": 0.0,  # SEPIA pads sizes that are odd, and we those that transform slowly
                        "tolerance": 1e-3,
                        "max_iterations": 400,
                    },
                },
            },
            citations=(CONSENSUS_PAPER,),
        ),
        Preset(
            name="consensus-medi",
            sentence=_SENTENCE.format(
                "alternative (MEDI)", "ADMM in place of Gauss-Newton steps, edges only of the image inside the mask"
            ),
            reconstruction={
                **_BEFORE_INVERSION,
                "inversion": "medi",
                "parameters": {
                    **_PARAMETERS_BEFORE_INVERSION,
                    "medi": {
                        "medi_lambda": 2000.0,
                        "edge_fraction": 0.3,  # 90 percent, of which the toolbox counts three a voxel
                        "smv_radius_mm": 5.0,
                        "padding_mm": 0.0,
                        "merit": True,
                        "merit_every": 5,
                        "merit_times": 10,
                        "gradient_penalty": 300.0,
                        "field_penalty": 1.0,
                        "tolerance": 0.01,
                        "max_iterations": 150,
                    },
                },
            },
            citations=(CONSENSUS_PAPER,),
        ),
    )
}
"""By name."""
