"""Rows of metrics, made by hand."""

from proximo.runs.health import TruthMeter

SOUND = {
    "ratio_deviation": 1e-6,
    "approx_kl": 0.01,
    "clip_fraction": 0.1,
    "explained_variance": 0.8,
    "entropy": 1.0,
    "grad_norm": 1.0,
    "grad_clip_fraction": 1.0,
    "normalizers_moved": 0.0,
    "normalizers_still": 0,
    "reset_row_weight": 0.0,
    "terminations": 3,
    "truncations": 2,
    "truncations_missed": 0,
    "truncations_compared": 2,
    "truncations_faked": 0,
    "observation_rms": 1.5,
    "value_rms": 2.0,
    "return_rms": 2.0,
    "return_std": 1.0,
    "clipped_actions": 0.3,
    "episode_length": 180.0,
    "episode_length_std": 20.0,
    "memory_mb": 500.0,
    "return": 10.0,
}


RESPONSES = {
    "kl": 3.0,
    "kl_k3": 3.0,
    "kl_se": 0.2,
    "sampler_gap": 1e-6,
    "score": 0.5,
    "score_std": 1.0,
    "finished": 0.9,
    "response_length": 20.0,
    "duplicates": 0.0,
}


def judged(rows):
    meter = TruthMeter()
    return [meter.judge(row) for row in rows]
