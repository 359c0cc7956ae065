"""Common to every run: configuration, folder, checkpoints, metrics, console, signals, random state.

Nothing is imported here, so that a command which only prints help starts without torch.
"""
