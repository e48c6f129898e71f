"""Nets in Flax NNX: built from a config, called as `model(x, train=...) -> logits`."""
