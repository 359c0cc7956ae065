"""The mathematics of PPO: pure functions on tensors, shared by robots and language models.

Importing this package imports nothing; take what you need from its modules.
"""
