"""An environment looked at before training."""
