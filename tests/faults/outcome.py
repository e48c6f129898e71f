"""What a row of the contract came to: cases counted, and why some were not survived."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One line of the table.

    Attributes:
        row: number in the contract.
        fault: what was done.
        promise: what the contract says of it.
        rounds: how often it was done.
        survived: how often the promise was kept.
        lost: runs, checkpoints or records that were lost against the promise.
        compared: how many results could be compared with those of an undisturbed run.
        identical: how many of them were the same, bit for bit.
        note: measured figures, and the first failures.
        skipped: why the row could not be tried here; "" if it was.
    """

    row: int
    fault: str
    promise: str
    rounds: int
    survived: int
    lost: int
    compared: int
    identical: int
    note: str
    skipped: str = ""

    @property
    def kept(self) -> bool:
        """Whether the promise was kept every time."""
        return (
            self.survived == self.rounds > 0 and self.lost == 0 and self.identical == self.compared
        )


@dataclasses.dataclass
class Case:
    """One fault: what it cost. `identical` stays None where nothing is compared."""

    lost: int = 0
    identical: bool | None = None


class Tally:
    """Counts the cases of a row; a case whose checks fail is told, and the next one tried."""

    def __init__(self) -> None:
        self.cases: list[Case] = []
        self.survived = 0
        self.failures: list[str] = []

    @contextlib.contextmanager
    def case(self, what: str) -> Iterator[Case]:
        """One fault, with the checks of what became of it as plain assertions."""
        case = Case()
        self.cases.append(case)
        try:
            yield case
        # A check that fails, and a product that breaks in a way nobody thought of, count alike.
        except Exception as error:
            told = (str(error).strip().splitlines() or [""])[0]
            self.failures.append(f"{what}: {type(error).__name__} {told}"[:300])
        else:
            self.survived += 1

    def outcome(self, row: int, fault: str, promise: str, note: str = "") -> Outcome:
        """The row's line."""
        told = [note] if note else []
        told += [f"FAILED {failure}" for failure in self.failures[:3]]
        return Outcome(
            row=row,
            fault=fault,
            promise=promise,
            rounds=len(self.cases),
            survived=self.survived,
            lost=sum(case.lost for case in self.cases),
            compared=sum(case.identical is not None for case in self.cases),
            identical=sum(case.identical is True for case in self.cases),
            note="; ".join(told),
        )


def skipped(row: int, fault: str, promise: str, why: str) -> Outcome:
    """The line of a row that cannot be tried on this machine."""
    return Outcome(row, fault, promise, 0, 0, 0, 0, 0, "", skipped=why)


# A row gets how many rounds are wanted and a folder of its own. What rows share (the undisturbed
# run, compiled programs) lies beside that folder.
Row = Callable[[int, Path], Outcome]
