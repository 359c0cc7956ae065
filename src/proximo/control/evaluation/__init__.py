"""Episodes after training: how good a policy is, and which one is the best."""
