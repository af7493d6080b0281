"""Dipole inversion: local field to susceptibility."""

from qsmals.recon.method import Registry

INVERSION = Registry("inversion", {"tv": "qsmals.recon.inversion.tv:TV"})
