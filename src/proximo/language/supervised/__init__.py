"""Fine-tuning and preference training."""
