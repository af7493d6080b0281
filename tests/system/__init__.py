"""Tests that start the real things: a SLURM cluster, containers, full disks. Run by ``make test-system``."""
