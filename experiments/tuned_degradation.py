r"""How much of degradation is tuning? Each net searched for its own best recipe, then run again.

    python -m experiments.tuned_degradation --workdir=runs/tuned --trials=40
    python -m experiments.tuned_degradation --config=configs/digits.py \
        --search=configs/search_digits.py --trials=16 --depths=20,56 --seeds=0,1,2

First one search for every net (`searches/`), all with the same space, sampler and number of trials;
its first trial is the default recipe. Then every net is run by the default recipe and by its own
best one, chosen on val alone, with several seeds that no search has seen (`nets/`, with the
report). Starting the same command again goes on wherever it was.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command_line, search
from experiments.grid import Row, nets, of_depth, seeded, twins
from experiments.hyperparameters import space
from resnet_jax import command, run_folder
from resnet_jax.errors import InputError
from resnet_jax.terminal import CONSOLE

# Of all searches' runs: their best recipe has been lucky with this one, so others judge it.
SEARCH_SEED = 1000
SEEDS = (0, 1, 2)
DEPTHS = (20, 56)
FAMILIES = ("plain", "residual")


def tuned_label(label: str) -> str:
    """What a net is called that has its own recipe."""
    return f"tuned-{label}"


def rows(
    depths: Sequence[int],
    families: Sequence[str],
    seeds: Sequence[int],
    recipes: Mapping[str, Mapping[str, Any]],
) -> list[Row]:
    """Every net by the default recipe and by its own.

    Args:
        depths: of the nets.
        families: 'plain', 'residual' or both.
        seeds: one run each.
        recipes: what each net's own recipe changes, by the net's label.
    """
    found = twins(of_depth, depths=depths, families=families, seeds=seeds)
    for label, net in nets(of_depth, depths=depths, families=families).items():
        found += seeded(tuned_label(label), seeds, {**net, **recipes.get(label, {})})
    return found


def described(
    labels: Sequence[str], workdir: pathlib.Path, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """What each search has found, as the report reads it beside the runs.

    Args:
        labels: of the nets.
        workdir: in which their searches are.
        changes: fields that the searches change before they begin.

    Raises:
        InputError: if a search has no trial with a result.
    """
    found = []
    for label in labels:
        path = workdir / label / run_folder.SEARCH
        content = run_folder.read_json(path)
        trials = {trial["number"]: trial for trial in content["trials"]}
        if content["best"] is None:
            raise InputError(f"{path.parent} has no trial that was trained to the end")
        best = trials[content["best"]]
        found.append(
            {
                "label": label,
                "tuned": tuned_label(label),
                "trials": len(trials),
                "states": [trial["state"] for trial in trials.values()],
                "best_trial": best["number"],
                "parameters": best["parameters"],
                "default_parameters": trials[0]["parameters"],
                "val_error": best["error"],
                "default_val_error": trials[0]["error"],
                "default_state": trials[0]["state"],
            }
        )
    return {"changes": dict(changes), "search_seed": SEARCH_SEED, "nets": found}


def main() -> None:
    """The command line."""
    sweep = command_line.SweepCommand("tuned_degradation", "configs/cifar_resnet20.py", SEEDS)
    file = flags.DEFINE_string("search", "configs/search_plain56.py", "Space, sampler, pruner.")
    trials = flags.DEFINE_integer("trials", 0, "Of each net; 0: as the search's file says.", 0)
    depths = flags.DEFINE_list("depths", [str(depth) for depth in DEPTHS], "Depths of the nets.")
    families = flags.DEFINE_list("families", list(FAMILIES), "plain, residual.")
    search.define_settings()

    def work(argv: list[str]) -> None:
        del argv
        sweep.check_flags()  # not only when days of searching are over
        if SEARCH_SEED in sweep.seeds:
            raise InputError(f"--seeds has {SEARCH_SEED}, which the searches have; use others")
        plan = space.read(pathlib.Path(file.value))
        plan = dataclasses.replace(plan, trials=trials.value or plan.trials)
        wanted = (
            command_line.numbers("depths", depths.value),
            command_line.families(families.value),
        )
        searches = sweep.workdir / "searches"
        base = sweep.config
        if sweep.dry_run:
            sweep.work(rows(*wanted, sweep.seeds, {}), sweep.workdir / "nets")
            CONSOLE.print(f"before them {plan.trials} trials of each net, each as long as a run")
            return
        labels = nets(of_depth, depths=wanted[0], families=wanted[1])
        bases = {
            label: space.changed(base, {**net, "train.seed": SEARCH_SEED})
            for label, net in labels.items()
        }
        for label in labels:
            space.check(plan, bases[label])  # all of them, before the first is begun
        if not sweep.is_local:
            CONSOLE.print("searching on this machine: --executor is for the nets that follow")
        for label in labels:
            name = f"{sweep.workdir.resolve().name}-{label}"
            code = search.work(plan, bases[label], searches / label, search.settings(), name=name)
            if code:
                sys.exit(code)
        told = described(list(labels), searches, plan.changes)
        recipes = {net["label"]: {**plan.changes, **net["parameters"]} for net in told["nets"]}
        made = rows(*wanted, sweep.seeds, recipes)
        folder = sweep.workdir / "nets"
        folder.mkdir(parents=True, exist_ok=True)
        run_folder.write_json(folder / run_folder.TUNED, told)
        sys.exit(sweep.work(made, folder))

    command.run(work)


if __name__ == "__main__":
    main()
