"""Wrappers: frame stacks, recorders of rewards, and the statistics of the user's own wrappers."""
