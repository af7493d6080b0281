"""How far an iterative method got."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Convergence:
    """What an iterative method reached, for the log and the sidecar.

    Attributes
    ----------
    iterations : int
        Iterations run.
    changes : tuple of float
        Relative change (or residual, as the method says) after each iteration.
    tolerance : float
        Value at which the method stops.
    """

    iterations: int
    changes: tuple[float, ...]
    tolerance: float

    @property
    def reached(self) -> float:
        """The last relative change; infinity before any iteration."""
        return self.changes[-1] if self.changes else float("inf")

    @property
    def converged(self) -> bool:
        """Whether the tolerance was reached."""
        return self.reached <= self.tolerance
