"""`proximo watch`: the report of runs that go on, served to a browser on this machine."""

from proximo.views.watch.server import watch

__all__ = ["watch"]
