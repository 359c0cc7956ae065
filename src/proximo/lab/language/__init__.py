"""What the language experiments share: tasks, runs, gradients, and the best of n."""
