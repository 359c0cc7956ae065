"""One update of a policy: its gradient, its steps, and how several ranks take them together."""
