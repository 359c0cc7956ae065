"""The record of a language run, token by token: `RUN/tokens`."""
