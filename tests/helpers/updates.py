"""PPO's update and gradient of settings and a policy, as most tests want them."""

from proximo.algorithms.ppo import PPO, algorithm_of
from proximo.core.objectives import ppo_loss
from proximo.core.updates.update import AutogradGradient, UpdateTask


def update(policy, batch, optimizer, settings, *, gradient=None, **options):
    """One update; `gradient` takes the place of the algorithm's."""
    watch = None if gradient is None else lambda _: gradient
    return algorithm_of(settings).update(UpdateTask(policy, batch, optimizer, watch=watch, **options))


def ppo_gradient(policy, settings=None, progress=0.0, **options):
    """The gradient of PPO's loss by autograd."""
    algorithm = PPO() if settings is None else algorithm_of(settings)
    return algorithm.gradient(UpdateTask(policy, None, None, progress=progress, **options))


def objective_gradient(policy, objective, **options):
    """The same for an objective's numbers."""

    def loss(seen, batch):
        return ppo_loss(
            seen.log_prob,
            seen.entropy,
            seen.value,
            old_log_prob=batch.log_prob,
            advantages=batch.advantages,
            returns=batch.returns,
            old_values=batch.value,
            weight=batch.weight,
            objective=objective,
            total_weight=batch.total_weight,
        )

    return AutogradGradient(policy, loss, **options)
