"""Images in memory, named splits, and batches that are a pure function of (seed, step)."""
