"""Every row of the contract and the function that measures it."""

from tests.faults import (
    data,
    determinism,
    divergence,
    kills,
    logs,
    security,
    storage,
    sweeps,
    workdirs,
)
from tests.faults.outcome import Row

ROWS: dict[int, Row] = {
    1: kills.at_random_moments,
    2: kills.at_scripted_places,
    3: divergence.injected,
    4: divergence.chance_level,
    5: sweeps.runs_that_fail,
    6: sweeps.killed_runner,
    7: sweeps.all_fail,
    8: storage.damaged_checkpoints,
    9: kills.asked_to_end,
    10: storage.full_disk,
    11: workdirs.changed_config,
    12: workdirs.many_starts,
    13: determinism.other_devices,
    14: determinism.same_seed,
    15: logs.read_while_written,
    16: determinism.other_clock,
    17: data.damaged_data,
    18: security.hostile_files,
    19: security.hostile_names,
    20: security.locked,
}
