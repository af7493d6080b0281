"""``python -m qsmals`` is ``qsmals``."""

import sys

from qsmals.cli import main

if __name__ == "__main__":
    sys.exit(main())
