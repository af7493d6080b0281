"""From stored phase to phase in radians without coil offset."""

from qsmals.recon.method import Registry

PHASE_OFFSET = Registry("phase-offset", {"mcpc-3d-s": "qsmals.recon.phase.mcpc3ds:MCPC_3D_S"})
