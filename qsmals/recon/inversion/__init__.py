"""Susceptibility from the local field."""

from qsmals.recon.method import Registry

INVERSION = Registry("inversion", {"tv": "qsmals.recon.inversion.tv:TV"})
"""Methods of dipole inversion; the first is the default."""
