import subprocess
import sys

import pytest

from proximo.core.settings import UpdateSettings


@pytest.mark.parametrize(
    ("name", "value", "bound"),
    [
        ("epochs", 0, "positive"),
        ("minibatch_size", 0, "positive"),
        ("micro_batches", 0, "positive"),
        ("clip", -0.1, "at least 0"),
        ("clip", "0.2 -> -0.1", "at least 0"),
        ("dual_clip", 1.0, "more than 1"),
        ("value_clip", 0.0, "positive"),
        ("value_coefficient", -0.5, "at least 0"),
        ("max_grad_norm", 0.0, "positive"),
        ("normalize_advantages", "none", "'off'"),
        ("target_kl", 0.0, "positive"),
        ("adaptive_kl", -0.01, "positive"),
    ],
)
def test_settings_that_mean_nothing_are_refused_by_name(name, value, bound):
    with pytest.raises(ValueError, match=rf"{name} = .* must be .*{bound}"):
        UpdateSettings(**{name: value})


@pytest.mark.parametrize("name", ["clip", "entropy_coefficient"])
def test_a_schedule_that_can_not_be_read_is_refused_at_once(name):
    with pytest.raises(ValueError, match="'start -> end'"):
        UpdateSettings(**{name: "slowly"})


def test_whatever_can_be_off_can_be_off():
    UpdateSettings(clip=None, dual_clip=None, value_clip=None, max_grad_norm=None, target_kl=None, adaptive_kl=None)
    UpdateSettings(clip="0.2 -> 0", entropy_coefficient="0.01 -> 0", value_coefficient=0.0, dual_clip=1.01)
    for normalize in ("batch", "minibatch", "off"):
        UpdateSettings(normalize_advantages=normalize)


def test_settings_are_read_without_loading_torch():
    code = "import sys, proximo.core.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
