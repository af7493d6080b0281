"""Nothing in the tests draws on a screen or on more threads than a small machine has."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("NO_ET", "1")
