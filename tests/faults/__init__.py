"""Faults on purpose: the reliability contract, row by row, measured on real processes.

    python -m tests.faults --rounds=50
    python -m tests.faults --rounds=5 --rows=1,2,9 --out=results

Each row breaks something (a process, a disk, a data file, a clock), lets the product deal with it,
and counts. `tests/test_faults.py` runs the same rows with few rounds.
"""
