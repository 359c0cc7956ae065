"""A judge that is not optimised, asked while a run goes on: how far the score can be trusted."""
