"""What a run shows on the terminal: a bar with speed and time left, or plain lines in a pipe."""

import contextlib
import logging
import time
from collections.abc import Iterator

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from resnet_jax.terminal import CONSOLE

LOG = logging.getLogger(__name__)


class TrainingProgress:
    """Shows how far a run is.

    Attributes:
        images_per_second: over the last update.
        seconds: spent on all steps so far, evaluations apart.

    Args:
        steps: of the whole run.
        start: step that this attempt begins at.
        batch_size: images a step.
        show: False keeps quiet.
    """

    def __init__(self, *, steps: int, start: int, batch_size: int, show: bool):
        self.images_per_second = float("nan")
        self.seconds = 0.0
        self._batch_size = batch_size
        self._step, self._time = start, time.monotonic()
        self._log = show and not CONSOLE.is_terminal
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]} img/s"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=CONSOLE,
            disable=not (show and CONSOLE.is_terminal),
            transient=True,
        )
        self._task = self._bar.add_task("", total=steps, completed=start, speed="-", text="")
        self._bar.start()

    def update(self, step: int, values: dict[str, float], more: str = "") -> None:
        """Tells that steps up to `step` are done, with the training metrics of the last ones.

        Args:
            step: the last one.
            values: its window's `loss` and `error`.
            more: to be said after the speed.
        """
        elapsed = time.monotonic() - self._time
        self.images_per_second = (step - self._step) * self._batch_size / max(elapsed, 1e-9)
        self.seconds += elapsed
        self._step, self._time = step, time.monotonic()
        text = f"loss {values['loss']:.3f}  error {values['error']:.1f} %"
        self._bar.update(
            self._task, completed=step, speed=f"{self.images_per_second:.0f}", text=text + more
        )
        if self._log:
            LOG.info("step %d  %s  %.0f img/s%s", step, text, self.images_per_second, more)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside (on evaluation) out of the speed."""
        start = time.monotonic()
        yield
        self._time += time.monotonic() - start

    def close(self) -> None:
        """Removes the bar."""
        self._bar.stop()
