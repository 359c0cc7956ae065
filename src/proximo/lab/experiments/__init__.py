"""The experiments, one file each."""

from proximo.errors import UserError, nearest
from proximo.lab.experiment import Experiment
from proximo.lab.experiments.baseline import Baseline
from proximo.lab.experiments.bias_variance import BiasVariance
from proximo.lab.experiments.cliff import Cliff
from proximo.lab.experiments.collapse import Collapse
from proximo.lab.experiments.critic_or_group import CriticOrGroup
from proximo.lab.experiments.details import Details
from proximo.lab.experiments.ratio import Ratio
from proximo.lab.experiments.reuse import Reuse
from proximo.lab.experiments.reward_hacking import RewardHacking
from proximo.lab.experiments.step_size import StepSize
from proximo.lab.experiments.supervised_vs_rl import SupervisedVsRL
from proximo.lab.experiments.trust_region import TrustRegion

_ALL: tuple[type[Experiment], ...] = (
    Cliff,
    StepSize,
    TrustRegion,
    Reuse,
    BiasVariance,
    Baseline,
    Ratio,
    RewardHacking,
    Collapse,
    SupervisedVsRL,
    CriticOrGroup,
    Details,
)
EXPERIMENTS: dict[str, type[Experiment]] = {each.name: each for each in _ALL}


def find(name: str) -> type[Experiment]:
    """The experiment of a name.

    Raises:
        UserError: there is none.
    """
    if name not in EXPERIMENTS:
        likely = nearest(name, EXPERIMENTS) or ", ".join(EXPERIMENTS)
        raise UserError(f"there is no experiment {name!r}: did you mean {likely}? `proximo lab list` lists them")
    return EXPERIMENTS[name]
