"""A function called in an interpreter of its own: another hash seed, and nothing left of what was imported before."""

import importlib
import os
import subprocess
import sys

from proximo.errors import UserError


def call(function: str, *arguments: str, hash_seed: int) -> None:
    """Call a function in a new interpreter, which looks for modules where this one does, and wait until it returns.

    Args:
        function: `module:name`; what it returns is lost.
        arguments: of the function, as texts.
        hash_seed: PYTHONHASHSEED there: `hash` of a text follows from it.

    Raises:
        UserError: it raised one, or the process died.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(hash_seed)}
    command = [sys.executable, "-m", "proximo.runs.new_process", function, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == 2:
        raise UserError(said.splitlines()[-1] if said else f"{function} could not be called")
    if done.returncode:
        raise UserError(f"the process of {function} ended with {done.returncode}; it said last:\n{said}")


def main() -> int:
    """Entry point of the new interpreter; 2 where the user has something to mend."""
    module, name = sys.argv[1].split(":")
    try:
        getattr(importlib.import_module(module), name)(*sys.argv[2:])
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
