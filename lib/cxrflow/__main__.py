"""``python -m cxrflow``, the same as the command ``cxrflow``; also for ``spark-submit``, which takes a file."""

import sys
from pathlib import Path

if not __package__:  # Started as a file. Its folder would hide other packages behind the names of ours.
    sys.path = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from cxrflow.pipeline.cli import main

if __name__ == "__main__":
    main()
