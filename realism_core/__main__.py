"""`python -m realism_core` is the command `realism`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
