"""``--use-plugin FILE``: nipype plugin settings in YAML or JSON, as fMRIPrep takes them, checked and mended."""

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

# nipype's names that mean "this machine"
LOCAL = ("MultiProc", "LegacyMultiProc", "Local")
# with nothing more than nipype's own manners mended; not tried on a real cluster
AS_NIPYPE = ("SGE", "PBS", "LSF", "OAR", "Condor")
SUBMIT_COMMANDS = {
    "SLURM": "sbatch",
    "SGE": "qsub",
    "PBS": "qsub",
    "LSF": "bsub",
    "OAR": "oarsub",
    "Condor": "condor_qsub",
}
# submit and return at once, before anything has run: outputs could not be checked nor reports written
UNUSABLE = ("SLURMGraph", "SGEGraph", "PBSGraph", "CondorDAGMan", "Debug", "IPython", "SomaFlow")
NAMES = (*LOCAL, "Linear", "SLURM", *AS_NIPYPE)


@dataclass(frozen=True)
class PluginSettings:
    """Which engine, and its ``plugin_args``."""

    plugin: str = "MultiProc"
    plugin_args: dict[str, Any] = field(default_factory=dict)


def load_plugin_file(path: Path) -> PluginSettings:
    """Read the settings in ``path``: a mapping with the keys ``plugin`` and ``plugin_args``.

    Raises
    ------
    ValueError
        The file cannot be read, is no such mapping, or names an engine that cannot be used; the
        message says which can.
    """
    import yaml  # type: ignore[import-untyped]

    try:
        content = yaml.safe_load(Path(path).read_text())  # JSON is YAML
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"plugin settings {path} cannot be read: {error}") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"plugin settings {path} must be a mapping with the keys plugin and plugin_args")
    unknown = sorted(set(map(str, content)) - {"plugin", "plugin_args"})
    if unknown:
        raise ValueError(f"plugin settings {path}: unknown key {', '.join(unknown)}; it has plugin and plugin_args")
    name, args = content.get("plugin", "MultiProc"), content.get("plugin_args") or {}
    if not isinstance(args, Mapping):
        raise ValueError(f"plugin settings {path}: plugin_args must be a mapping")
    _check_name(str(name), Path(path))
    return PluginSettings(str(name), {str(key): value for key, value in args.items()})


def make_plugin(settings: PluginSettings, **defaults: Any) -> Any:
    """The nipype plugin object to give to ``workflow.run(plugin=...)``.

    Parameters
    ----------
    settings : PluginSettings
        Of :func:`load_plugin_file`, or the default: this machine.
    **defaults
        ``plugin_args`` of the command line (``n_procs``, ``memory_gb``, ``progress``, ``naming``,
        ``itk_threads``, ...); those of ``settings`` win, those that the engine has no use for are left out.

    Raises
    ------
    ValueError
        The engine cannot take an argument in the file, or its command is not on this machine.
    """
    name = settings.plugin
    _check_name(name, None)
    command = SUBMIT_COMMANDS.get(name)
    if command and shutil.which(command) is None:
        raise ValueError(f"the {name} engine needs the command {command}: start qsmals where jobs can be submitted")
    if name in (*LOCAL, "Linear"):
        return _local(settings, defaults)
    reporting = {key: defaults[key] for key in ("progress", "naming", "max_jobs") if key in defaults}
    args = reporting | settings.plugin_args
    if name == "SLURM":
        from qsmals.engine.batch import SlurmPlugin

        return SlurmPlugin(args)
    return _as_nipype(name, args)


def _check_name(name: str, path: Path | None) -> None:
    if name in NAMES:
        return
    where = f"plugin settings {path}: " if path else ""
    if name in UNUSABLE:
        raise ValueError(f"{where}{name} returns before anything has run or needs more software; use {_words()}")
    raise ValueError(f"{where}there is no engine {name}; use {_words()}")


def _words() -> str:
    return ", ".join(NAMES)


def _local(settings: PluginSettings, defaults: Mapping[str, Any]) -> Any:
    from qsmals.engine.plugin import LocalPlugin

    args = dict(defaults) | settings.plugin_args
    if settings.plugin == "Linear":
        args["max_jobs"] = 1
    return LocalPlugin(args)


def _as_nipype(name: str, args: dict[str, Any]) -> Any:
    """nipype's own engine ``name`` that reports as ours do."""
    from nipype.pipeline import plugins

    from qsmals.engine.batch import set_logname
    from qsmals.engine.progress import Reporting

    set_logname()
    log.warning("the %s engine is nipype's own and was not tried on a real cluster by qsmals", name)
    engine = type(f"{name}Plugin", (Reporting, getattr(plugins, f"{name}Plugin")), {})
    plugin: Any = engine(plugin_args={k: v for k, v in args.items() if k not in Reporting.REPORTING_ARGS})
    plugin._init_reporting(args)
    return plugin
