"""R2*, T2* and S0 from the decay of the magnitude."""

from qsmals.recon.method import Registry

RELAXOMETRY = Registry(
    "relaxometry",
    {
        "arlo": "qsmals.recon.relaxometry.arlo:ARLO",
        "log-linear": "qsmals.recon.relaxometry.loglinear:LOG_LINEAR",
        "nonlinear": "qsmals.recon.relaxometry.nonlinear:NONLINEAR",
    },
)
"""Methods of relaxometry; the first is the default."""
