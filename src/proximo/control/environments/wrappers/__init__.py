"""What lies around a user's environment, and what the user's own wrappers learn."""
