"""A run from rollout to update, and how it starts, resumes and is repeated."""
