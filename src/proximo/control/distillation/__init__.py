"""A student that learns what a trained teacher would do."""
