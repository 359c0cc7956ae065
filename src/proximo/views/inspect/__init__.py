"""`proximo inspect`: what a run learnt from, token by token or step by step."""

from proximo.views.inspect.run import inspect_run

__all__ = ["inspect_run"]
