"""The control half: environments -> rollouts -> update."""
