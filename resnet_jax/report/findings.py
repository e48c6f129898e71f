"""What a report says of a sweep that asks for something else than depth."""

import dataclasses

from resnet_jax.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Findings:
    """An answer, with its numbers.

    Attributes:
        question: that the sweep asks.
        sentences: the answer.
        tables: its numbers.
        folders: of the runs in the first table's rows, for links; or nothing.
        is_search: whether its runs are there to choose among, on val: then nothing of test is
            shown, nor what each of them alone is worth.
        asks_for_depth: whether depth is what it is about, so that the verdict stands beside it.
    """

    question: str
    sentences: tuple[str, ...]
    tables: tuple[Table, ...]
    folders: tuple[str, ...] = ()
    is_search: bool = False
    asks_for_depth: bool = False
