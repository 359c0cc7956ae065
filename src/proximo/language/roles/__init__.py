"""Policy, reference and critic, and how they share weights."""
