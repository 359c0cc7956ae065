"""`python -m proximo`: the command line."""

import sys

from proximo.cli.main import main

sys.exit(main())
