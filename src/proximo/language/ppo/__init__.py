"""PPO on a language model."""
