"""What the two programs agree on: how a model's device tensors are made and laid out. Pure data and array arithmetic."""
