"""Unwrapped phase of all echoes to the total field."""

from qsmals.recon.method import Registry

FIELD = Registry("field", {"weighted": "qsmals.recon.field.weighted:WEIGHTED"})
