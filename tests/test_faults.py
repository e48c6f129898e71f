"""The contract's rows with few rounds; `make faults` runs them with many and prints the table."""

import concurrent.futures
import dataclasses
import json

import pytest

from tests.faults import __main__ as table
from tests.faults.outcome import Outcome, Tally, skipped
from tests.faults.rows import ROWS

# Enough to fail if a promise breaks, and not longer: most rounds are processes of some seconds.
ROUNDS = {3: 4, 17: 10}
# Rows that do next to nothing in this process itself, the longest first; and all in the order in
# which they are asked for, so that the others are tried while those are under way.
OF_PROCESSES = (9, 5, 6, 2, 14, 12, 1, 10, 4, 16)
IN_TURN = sorted(ROWS, key=lambda number: number in OF_PROCESSES)


@pytest.fixture(scope="module")
def measured(tmp_path_factory, request):
    """Tells a row's outcome. Rows that wait for other processes run two at a time, meanwhile."""
    shared = tmp_path_factory.mktemp("faults")
    (shared / "compiled").mkdir()

    def measure(number):
        folder = shared / f"row{number}"
        folder.mkdir()
        return ROWS[number](ROUNDS.get(number, 1), folder)

    tests = [item for item in request.session.items if hasattr(item, "callspec")]
    chosen = {item.callspec.params.get("number") for item in tests}
    with pytest.MonkeyPatch.context() as patch, concurrent.futures.ThreadPoolExecutor(2) as pool:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # as in this process; see conftest.py
        begun = {n: pool.submit(measure, n) for n in OF_PROCESSES if n in chosen}
        yield lambda number: begun[number].result() if number in begun else measure(number)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")
@pytest.mark.parametrize("number", IN_TURN)
def test_the_contract_is_kept(number, measured):
    outcome = measured(number)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.survived == outcome.rounds > 0, outcome.note
    assert outcome.lost == 0, outcome.note
    assert outcome.identical == outcome.compared, outcome.note


def test_every_row_of_the_contract_is_there():
    assert list(ROWS) == list(range(1, 21))


def counted(*cases):
    """The outcome of cases given as (survives, lost, identical)."""
    tally = Tally()
    for survives, lost, identical in cases:
        with tally.case("it") as case:
            case.lost, case.identical = lost, identical
            assert survives, "it did not"
    return tally.outcome(1, "fault", "promise")


@pytest.mark.parametrize(
    ("cases", "kept"),
    [
        ([(True, 0, True), (True, 0, None)], True),
        ([(True, 0, True), (False, 0, True)], False),
        ([(True, 1, True)], False),
        ([(True, 0, True), (True, 0, False)], False),
        ([], False),
    ],
)
def test_a_promise_is_kept_only_if_every_case_survives_loses_nothing_and_ends_alike(cases, kept):
    assert counted(*cases).kept is kept


def test_a_case_that_fails_is_told_and_the_next_one_is_tried():
    outcome = counted((False, 0, None), (True, 0, None))
    assert (outcome.rounds, outcome.survived) == (2, 1)
    assert outcome.note == "FAILED it: AssertionError it did not"


def test_the_table_is_written_with_where_its_numbers_come_from(tmp_path, monkeypatch, capsys):
    def row(rounds, folder):
        return Outcome(1, "a fault", "a promise", rounds, rounds, 0, rounds, rounds, "a figure")

    monkeypatch.setattr(
        table.rows, "ROWS", {1: row, 2: lambda *_: skipped(2, "no", "none", "no disk")}
    )
    assert table.main(["--rounds=7", f"--out={tmp_path}"]) == 0
    told = json.loads((tmp_path / "faults.json").read_text())
    assert told["rounds_wanted"] == 7 and told["commit"] and told["versions"]["jax"]
    assert told["rows"][0] == dataclasses.asdict(row(7, None))
    text = (tmp_path / "faults.md").read_text()
    assert "| 1 | a fault | 7 | 7 | 0 | 7/7 | a promise | a figure |" in text
    assert "skipped: no disk" in text and told["commit"] in text
    assert "row 1: kept, 7/7 survived" in capsys.readouterr().out


def test_a_promise_that_is_not_kept_is_exit_code_1(tmp_path, monkeypatch, capsys):
    broken = counted((False, 0, None))
    monkeypatch.setattr(table.rows, "ROWS", {1: lambda *_: broken})
    assert table.main(["--rows=1"]) == 1
    assert "NOT KEPT" in capsys.readouterr().out
