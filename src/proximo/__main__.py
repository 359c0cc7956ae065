"""`python -m proximo`: the command line."""

import sys

from proximo.cli import main

sys.exit(main())
