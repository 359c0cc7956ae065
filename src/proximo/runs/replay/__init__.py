"""The last updates of a run, kept so that they can be done again: bit for bit, or with one setting changed."""
