"""`python -m dither` is the `dither` command."""

import sys

from dither.cli import main

if __name__ == "__main__":
    sys.exit(main())
