"""More than one process for one run: the ranks, and how they are started. Everything else receives a `Mesh`."""
