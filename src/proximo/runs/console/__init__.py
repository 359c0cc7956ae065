"""Output for the person who watches a run."""
