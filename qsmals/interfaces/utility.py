"""Small joints between nodes."""

from typing import Any

from nipype.interfaces.base import BaseInterfaceInputSpec, SimpleInterface, TraitedSpec, isdefined, traits

SLOTS = ("first", "second", "third", "fourth")
"""Inputs of :class:`ListOf`, in order."""


class _ListInput(BaseInterfaceInputSpec):
    first = traits.Any(mandatory=True)
    second = traits.Any()
    third = traits.Any()
    fourth = traits.Any()


class _ListOutput(TraitedSpec):
    out = traits.List()


class ListOf(SimpleInterface):
    """Up to four values as a list, in order."""

    input_spec = _ListInput
    output_spec = _ListOutput

    def _run_interface(self, runtime: Any) -> Any:
        values = (getattr(self.inputs, slot) for slot in SLOTS)
        self._results["out"] = [value for value in values if isdefined(value)]
        return runtime
