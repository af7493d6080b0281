"""Phase unwrapping."""

from qsmals.recon.method import Registry

UNWRAP = Registry(
    "unwrap", {"romeo": "qsmals.recon.unwrap.romeo:ROMEO", "laplacian": "qsmals.recon.unwrap.laplacian:LAPLACIAN"}
)
