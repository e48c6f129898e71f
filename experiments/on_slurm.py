"""A sweep as a Slurm array: one task a run, from the same grid and into the same folders.

Slurm's own queue begins the runs; this only writes what it is given. Tasks that are interrupted
save, and are put back into the queue.
"""

import pathlib
import shlex
import sys
from collections.abc import Sequence

from experiments.plan import PlannedRun, enqueue
from resnet_jax.terminal import CONSOLE

ROOT = pathlib.Path(__file__).resolve().parents[1]
SCRIPT, NAMES = "sweep.sbatch", "runs.txt"
# Seconds before a time limit at which a run is asked to save.
NOTICE = 120

TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={job}
#SBATCH --array=0-{last}{limit}
#SBATCH --output={folder}/slurm-%A_%a.out
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cores}
#SBATCH --signal=B:TERM@{notice}
#SBATCH --requeue
{options}
# One run of the sweep: line SLURM_ARRAY_TASK_ID + 1 of {names}. What it has done stays in its
# folder, so the whole array can be submitted again at any time.
cd {root} || exit 1
name=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {folder}/{names})
if [ -z "$name" ]; then echo "error: {names} has no line for this task" >&2; exit 2; fi
{python} -m resnet_jax.main --workdir={folder}/"$name" &
run=$!
trap 'kill -TERM "$run" 2>/dev/null' TERM INT
wait "$run"; code=$?
# A trapped signal ends `wait`, not the run, which saves.
while kill -0 "$run" 2>/dev/null; do wait "$run"; code=$?; done
if [ "$code" -eq 75 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
# A run that diverges is a result.
if [ "$code" -eq 3 ]; then exit 0; fi
exit "$code"
"""


def write(
    runs: Sequence[PlannedRun],
    folder: pathlib.Path,
    *,
    cores: int,
    gpus: int,
    most: int,
    options: Sequence[str],
) -> None:
    """Writes the array's script beside the run folders, and tells how to submit it.

    Args:
        runs: of the sweep; those that have a result are left out.
        folder: of the sweep, which the nodes see under the same path.
        cores: for each run.
        gpus: for each run.
        most: runs at a time; 0 leaves that to Slurm.
        options: further ones of sbatch.
    """
    left = [run for run in runs if not run.is_finished]
    if not left:
        CONSOLE.print(f"all {len(runs)} runs in {folder} have a result; nothing to submit")
        return
    for run in left:
        enqueue(run)
    folder = folder.absolute()
    given = [*([f"--gpus-per-task={gpus}"] if gpus else []), *options]
    text = TEMPLATE.format(
        job=folder.name,
        last=len(left) - 1,
        limit=f"%{most}" if most else "",
        folder=shlex.quote(str(folder)),
        cores=cores,
        notice=NOTICE,
        options="".join(f"#SBATCH {option}\n" for option in given),
        names=NAMES,
        root=shlex.quote(str(ROOT)),
        python=shlex.quote(sys.executable),
    )
    (folder / NAMES).write_text("".join(f"{run.name}\n" for run in left))
    (folder / SCRIPT).write_text(text)
    CONSOLE.print(
        f"{len(left)} of {len(runs)} runs are left. Submit them, and draw the report when they "
        f"are done:\n  sbatch {shlex.quote(str(folder / SCRIPT))}"
        f"\n  python -m resnet_jax.report {shlex.quote(str(folder))}",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
