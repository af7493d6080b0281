"""Relaxation of the magnitude over the echoes."""

from qsmals.recon.method import Registry

RELAXOMETRY = Registry("relaxometry", {"arlo": "qsmals.recon.relaxometry.arlo:ARLO"})
