"""Small joints between nodes."""

from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, isdefined, traits


class _ListInput(BaseInterfaceInputSpec):
    first = traits.Any(mandatory=True)
    second = traits.Any()


class _ListOutput(TraitedSpec):
    out = traits.List()


class ListOf(SimpleInterface):
    """One or two values as a list, in order."""

    input_spec = _ListInput
    output_spec = _ListOutput

    def _run_interface(self, runtime: Any) -> Any:
        second = [self.inputs.second] if isdefined(self.inputs.second) else []
        self._results["out"] = [self.inputs.first, *second]
        return runtime
