"""Which examples a batch holds: a pure function of (seed, step), so resuming needs no iterator.

JAX is not imported here: the processes that decode images need the order too.
"""

import numpy as np


class TrainingOrder:
    """An endless stream of examples: one random permutation of the training split after another.

    Args:
        count: examples in the split.
        batch_size: examples in a step.
        seed: of the permutations.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self._orders: dict[int, np.ndarray] = {}

    def batch(self, step: int) -> np.ndarray:
        """The examples of one step, int32 [batch]; epochs join without dropping any."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(positions, self.count)
        self._orders = {int(epoch): self._order(int(epoch)) for epoch in np.unique(epochs)}
        parts = [self._orders[epoch][places[epochs == epoch]] for epoch in self._orders]
        return np.concatenate(parts).astype(np.int32)

    def batches(self, step: int, steps: int) -> np.ndarray:
        """The examples of `steps` steps from `step` on, int32 [steps, batch]."""
        return np.stack([self.batch(s) for s in range(step, step + steps)])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch in self._orders:
            return self._orders[epoch]
        # RandomState's stream is frozen by NumPy's policy (NEP 19); Generator's may change.
        return np.random.RandomState([self.seed, epoch]).permutation(self.count)
