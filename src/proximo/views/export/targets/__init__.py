"""One file for each format that a control policy is written in, and what they share."""
