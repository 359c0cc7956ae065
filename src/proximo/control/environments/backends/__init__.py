"""Batches of environments as EnvPool, Gymnasium and subprocesses run them."""
