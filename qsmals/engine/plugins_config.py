"""``--use-plugin FILE``: nipype plugin settings in YAML or JSON, as fMRIPrep takes them, checked and mended."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qsmals.engine.queues import QUEUES

# nipype's names that mean "this machine"
LOCAL = ("MultiProc", "LegacyMultiProc", "Local", "Linear")
# those that hand the whole graph over at once, by the batch system that they use
GRAPHS = {"SLURMGraph": "SLURM", "SGEGraph": "SGE", "PBSGraph": "PBS"}
NAMES = (*LOCAL, *QUEUES, *GRAPHS, "CondorDAGMan", "IPython")


class UnusablePlugin(ValueError):
    """The engine that was asked for cannot be used here; the message says why."""


@dataclass(frozen=True)
class PluginSettings:
    """Which engine, and its ``plugin_args``."""

    plugin: str = "MultiProc"
    plugin_args: dict[str, Any] = field(default_factory=dict)

    @property
    def is_local(self) -> bool:
        """Whether the steps run on this machine."""
        return self.plugin in LOCAL


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
    if settings.is_local:
        return _local(settings, defaults)
    wanted = ("progress", "naming", "max_jobs", "itk_threads")
    args = {key: defaults[key] for key in wanted if key in defaults} | settings.plugin_args
    return _batch(name, args)


def check_plugin(path: Path) -> None:
    """Raise :class:`UnusablePlugin` where the settings in ``path`` name no engine that can be used here."""
    try:
        make_plugin(load_plugin_file(path))
    except (ValueError, TypeError) as error:
        raise UnusablePlugin(f"--use-plugin {path}: {error}") from error


def _check_name(name: str, path: Path | None) -> None:
    if name in NAMES:
        return
    where = f"plugin settings {path}: " if path else ""
    if name == "SomaFlow":
        raise ValueError(
            f"{where}SomaFlow needs soma.workflow, which soma-workflow no longer has; use {', '.join(NAMES)}"
        )
    if name == "Debug":
        raise ValueError(f"{where}Debug runs a Python function in place of the nodes; use {', '.join(NAMES)}")
    raise ValueError(f"{where}there is no engine {name}; use {', '.join(NAMES)}")


def _local(settings: PluginSettings, defaults: Mapping[str, Any]) -> Any:
    from qsmals.engine.plugin import LocalPlugin

    args = dict(defaults) | settings.plugin_args
    if settings.plugin == "Linear":
        args["max_jobs"] = 1
    return LocalPlugin(args)


def _batch(name: str, args: dict[str, Any]) -> Any:
    """An engine on a batch system."""
    if name == "IPython":
        from qsmals.engine.ipython import IPythonEngine

        return IPythonEngine(args)
    from qsmals.engine.batch import BatchPlugin, GraphPlugin
    from qsmals.engine.dagman import DagMan, DagManPlugin

    queue = DagMan(args) if name == "CondorDAGMan" else QUEUES[GRAPHS.get(name, name)](args)
    if shutil.which(queue.submit_command) is None:
        raise ValueError(
            f"the {name} engine needs the command {queue.submit_command}: start qsmals where jobs can be submitted"
        )
    if isinstance(queue, DagMan):
        return DagManPlugin(queue, args)
    return (GraphPlugin if name in GRAPHS else BatchPlugin)(queue, args)
