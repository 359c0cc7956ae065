"""What a page says of a setting when it is pointed at: the text that `proximo explain` shows, and the formula."""

from functools import cache

from proximo.views.explain.explain import texts_of
from proximo.views.explain.settings import CONTROL, STAGES, settings

_VERBS = {"control": CONTROL, "language": STAGES["ppo"], **STAGES}
"""By the kind of a run."""


@cache
def text_of_setting(key: str, kinds: frozenset[str]) -> str:
    """One paragraph; "" for a setting of an algorithm or a model of the user's own.

    Args:
        key: dotted, as in config.toml; a key of the user's own in a table (`options.gravity`) is told by its table.
        kinds: of the runs that have it, as in their config.toml.
    """
    known = settings()
    while key not in known:
        key = key.rpartition(".")[0]
        if not key:
            return ""
    setting, verbs = known[key], {_VERBS.get(kind) for kind in kinds}
    there = [place for place in setting.places if place.verb in verbs] or setting.places
    formula = [] if setting.formula is None else [setting.formula.text]
    return " ".join(" ".join([*texts_of(there), *formula]).split())
