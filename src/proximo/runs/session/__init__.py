"""A run while it is trained: opened, stopped, undone, recorded."""
