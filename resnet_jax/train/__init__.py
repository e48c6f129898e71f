"""Training: state, optimizer, pure steps, checkpoints, and the loop that orders them."""
