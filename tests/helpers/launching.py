"""`proximo` as a program that starts its ranks, or its trainings side by side, warm.

Usage: launching.py FOLDER ARGUMENT ..., where the arguments are those of `proximo`. Each rank's process number is
written to FOLDER/rank-N.
"""

import sys
from pathlib import Path

import warm


class Numbered(warm.Popen):
    """A rank's process."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        number = Path(NUMBERS, f"rank-{options['env']['RANK']}.new")
        number.write_text(str(self.pid))
        number.rename(number.with_suffix(""))


if __name__ == "__main__":
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    from proximo.cli.main import main
    from proximo.control.many import processes

    NUMBERS = sys.argv.pop(1)
    subprocess_handler.Popen = Numbered
    processes.subprocess = warm.module_of_starts()
    sys.exit(main())
