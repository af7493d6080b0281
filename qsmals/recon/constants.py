"""Physical constants that every stage shares."""

GAMMA_BAR_MHZ_PER_TESLA = 42.577478
"""Gyromagnetic ratio of the proton over 2 pi, MHz/T (CODATA 2018)."""
