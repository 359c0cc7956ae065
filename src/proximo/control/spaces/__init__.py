"""Observations and actions: from nested spaces to tensors and back."""
