"""The list of damaged images in a run's folder: it is the data set's, and outlives attempts."""

import pathlib

from resnet_jax import run_folder
from resnet_jax.data.feed import Feed
from resnet_jax.hosts import Hosts


class DamageList:
    """`unreadable.json`: what a feed has found damaged, of this and earlier attempts.

    Args:
        feed: which is told what earlier attempts have found.
        workdir: the run's folder.
        hosts: each of which finds those in its share.

    Raises:
        InputError: if the file is no JSON.
    """

    def __init__(self, feed: Feed, workdir: pathlib.Path, hosts: Hosts):
        self._feed, self._path, self._hosts = feed, workdir / run_folder.UNREADABLE, hosts
        for split, found in (run_folder.read_json(self._path) or {}).items():
            feed.unreadable[split].update(found)
        self._kept = sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """How many of each split, where there are any."""
        return {split: len(found) for split, found in self._feed.unreadable.items() if found}

    def report(self) -> dict[str, dict[str, int]]:
        """What `status.json` says of it: nothing, if there are none. Keeps the list first."""
        self.keep()
        counts = self.counts()
        return {"unreadable": counts} if counts else {}

    def gather(self) -> None:
        """Adds what the other hosts have found. All have to ask."""
        for theirs in self._hosts.every(self._feed.unreadable):
            for split, found in theirs.items():
                self._feed.unreadable[split].update(found)

    def keep(self) -> None:
        """Writes the list if it has grown."""
        count = sum(self.counts().values())
        if count > self._kept:
            found = {split: names for split, names in self._feed.unreadable.items() if names}
            run_folder.write_json(self._path, found)
            self._kept = count
