"""What a report says of a search, and of nets by the default recipe and by their own."""

import json

import numpy as np
import pytest
import scipy.stats

from experiments import tuned_degradation
from resnet_jax.errors import InputError
from resnet_jax.report import charts, outputs, search, search_figures, sweep, tuned, verdict
from tests.test_report_runs import make_run, put

RATE, DECAY, SCHEDULE = "optimizer.learning_rate", "optimizer.weight_decay", "optimizer.schedule"
# Number: state, error, rate, decay, schedule.
TRIALS = (
    ("completed", 12.0, 0.01, 1e-4, "step"),
    ("completed", 30.0, 0.5, 1e-3, "cosine"),
    ("pruned", 60.0, 0.002, 1e-5, "step"),
    ("diverged", 100.0, 0.9, 1e-4, "cosine"),
    ("completed", 7.5, 0.06, 2e-4, "cosine"),
    ("completed", 9.0, 0.04, 2e-4, "step"),
)


def trial(number, state, error, rate, decay, schedule):
    return {
        "number": number,
        "folder": f"trial-{number:03}",
        "state": state,
        "error": error,
        "parameters": {RATE: rate, DECAY: decay, SCHEDULE: schedule},
        "seconds": 60.0,
        "reason": "pruned by Median at step 50, val error 60.00 %" if state == "pruned" else "",
        "errors": {"50": error} if state == "pruned" else {"50": 80.0, "100": error},
    }


def content(**more):
    return {
        "base": "configs/digits.py",
        "changes": {},
        "space": {
            RATE: {"log_uniform": [0.001, 1.0]},
            DECAY: {"uniform": [0.0, 0.01]},
            SCHEDULE: {"categorical": ["step", "cosine"]},
        },
        "sampler": {"name": "TPE", "n_startup_trials": 3},
        "pruner": {"name": "Median"},
        "evaluations": 2,
        "seed": 0,
        "net": "plain-20",
        "trials_wanted": 6,
        "optuna": "5.0.0",
        "best": 4,
        "trials": [trial(number, *one) for number, one in enumerate(TRIALS)],
        "importances": {
            "method": "PED-ANOVA of these",
            "values": {RATE: 0.7, DECAY: 0.2, SCHEDULE: 0.1},
        },
        **more,
    }


def make_search(root, **more):
    """A search's folder with its run folders, whose test errors would rank them otherwise."""
    states = {"pruned": "stopped"}
    for number, (state, error, *_) in enumerate(TRIALS):
        make_run(
            *(root, "plain-20"),
            name=f"trial-{number:03}",
            state=states.get(state, state),
            step=50 if state != "completed" else None,
            test=float(97 - error),
        )
    put(root, "search.json", content(**more))
    return root


@pytest.fixture
def searched(tmp_path):
    return make_search(tmp_path / "tried")


def test_the_answer_names_the_best_values_and_how_much_worse_the_base_s_own_are(searched):
    paths = outputs.write_report(searched)
    answer, how = paths.text.splitlines()
    assert answer == (
        "plain-20 has the lowest val error, 7.50 %, with learning rate 0.06, weight decay 0.0002, "
        "schedule cosine (trial-004); the base's own values, learning rate 0.01, weight decay "
        "0.0001, schedule step, have 12.00 %, 4.50 points more."
    )
    assert how.startswith("6 trials (4 completed, 1 diverged, 1 pruned); sampler TPE (n_startup_tr")
    assert "mean of the last 2 evaluations" in how and "One seed a trial" in how


DIVERGED_FIRST = [trial(0, "diverged", 100.0, 3, 0, "step"), trial(1, *TRIALS[1])]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"best": 0}, "which are the base's own values: no other trial is better."),
        ({"best": None}, "No trial of plain-20 was trained to the end"),
        (
            {"trials": DIVERGED_FIRST, "best": 1},
            "; with the base's own values, learning rate 3, weight decay 0, schedule step, it div",
        ),
    ],
)
def test_the_answer_says_so_where_there_is_nothing_better_or_nothing_to_compare(
    tmp_path, change, words
):
    make_search(tmp_path / "tried", **change)
    found = search.findings(sweep.load(tmp_path / "tried"))
    assert words in found.sentences[0]


def test_the_table_has_the_completed_trials_by_error_and_the_others_with_their_reason(searched):
    best, others = search.findings(sweep.load(searched)).tables
    assert [row[:2] for row in best.rows] == [
        *(("trial-004", "7.50"), ("trial-005", "9.00"), ("trial-000 (base)", "12.00")),
        ("trial-001", "30.00"),
    ]
    assert others.rows[0][:4] == ("trial-002", "pruned", "60.00", "50")
    assert others.rows[0][-1] == "pruned by Median at step 50, val error 60.00 %"
    assert others.rows[1][:2] == ("trial-003", "diverged")


def test_of_many_trials_the_best_ten_are_in_the_table(tmp_path):
    errors = [float(n) for n in (5, 3, 20, 11, 14, 2, 9, 8, 13, 7, 6, 16)]
    trials = [trial(n, "completed", e, 0.1, 0.0, "step") for n, e in enumerate(errors)]
    root = make_search(tmp_path / "tried", trials=trials, best=5)
    best, *_ = search.findings(sweep.load(root)).tables
    assert [row[1] for row in best.rows] == [f"{e:.2f}" for e in sorted(errors)[:10]]


def points(axes):
    """What is drawn as dots, in one list of (x, y)."""
    found = [collection.get_offsets() for collection in axes.collections]
    return {tuple(map(float, point)) for offsets in found for point in offsets}


def test_the_history_has_every_trial_and_the_lowest_error_so_far(searched):
    runs, found = sweep.load(searched), search.read(searched)
    (axes,) = search_figures.history(runs, found).axes
    assert points(axes) == {(n, error) for n, (_, error, *_) in enumerate(TRIALS)}
    (steps,) = [line for line in axes.lines if line.get_label() == "lowest so far"]
    # Pruned and diverged trials lower nothing.
    assert list(zip(*steps.get_data(), strict=True)) == [
        *((0, 12.0), (1, 12.0), (4, 7.5), (5, 7.5)),
        (5, 7.5),
    ]
    (dashed,) = [line for line in axes.lines if line.get_label() == "the base's own values"]
    assert set(dashed.get_ydata()) == {12.0}
    looks = {c.get_label(): len(c.get_offsets()) for c in axes.collections}
    assert looks == {
        "completed": 4,
        "diverged (counts as 100 %)": 1,
        "pruned (its last error)": 1,
    }
    shapes = {tuple(map(tuple, c.get_paths()[0].vertices)) for c in axes.collections}
    assert len(shapes) == 3  # told apart without colour


def test_every_parameter_has_a_panel_logarithmic_where_the_space_is(searched):
    runs, found = sweep.load(searched), search.read(searched)
    panels = search_figures.by_parameter(runs, found).axes[:3]
    assert [axes.get_xscale() for axes in panels] == ["log", "linear", "linear"]
    assert [axes.get_xlabel() for axes in panels] == ["learning rate", "weight decay", "schedule"]
    rates = {(rate, error) for _, error, rate, _, _ in TRIALS}
    assert points(panels[0]) == rates
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["step", "cosine"]
    places = {(float(one == "cosine"), error) for _, error, _, _, one in TRIALS}
    assert points(panels[2]) == places
    orders = np.concatenate(
        [c.get_array() for c in panels[0].collections if c.get_array() is not None]
    )
    assert sorted(orders) == list(range(6))  # fmt: skip


def test_importances_are_bars_with_their_numbers_and_say_how_they_came_about(searched):
    runs, found = sweep.load(searched), search.read(searched)
    figure = search_figures.importances(runs, found)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [0.1, 0.2, 0.7]
    assert {text.get_text() for text in axes.texts} == {"0.10", "0.20", "0.70"}
    assert "PED-ANOVA of these" in figure.get_supxlabel()


def test_without_importances_there_is_no_such_figure_and_the_reason_is_told(tmp_path):
    root = make_search(tmp_path / "tried", importances={"reason": "4 completed trials"})
    names = [name for name, _ in charts.draw_all(sweep.load(root))]
    assert names == ["search_history", "search_parameters"]
    assert "no importances of parameters: 4 completed trials" in " ".join(
        search.findings(sweep.load(root)).sentences
    )


def test_the_page_of_a_search_has_its_figures_and_nothing_of_the_test_split(searched):
    page = outputs.write_report(searched).html.read_text()
    body = page.partition("<body>")[2].partition('<script type="application/json"')[0]
    assert body.count("data:image/svg+xml") == 3
    assert "Which values have the lowest error on val?" in body and "./../trial-004/" in body
    for heading in ("Verdict", "Is it a good classifier?", "Published and measured", "Final error"):
        assert f"<h2>{heading}</h2>" not in body
    # Errors on test, 97 less the trial's on val, stand in no table.
    assert "89.50" not in body and "test error" not in body
    assert 'id="show-val" checked' in body and 'id="show-test">' in body


def test_names_of_fields_and_reasons_cannot_become_code_in_the_page(tmp_path):
    odd = trial(1, *TRIALS[1]) | {"reason": "<script>alert(1)</script>", "state": "failed"}
    root = make_search(tmp_path / "tried", trials=[trial(0, *TRIALS[0]), odd], best=0)
    page = outputs.write_report(root).html.read_text()
    assert "<script>alert(1)" not in page and "&lt;script&gt;alert(1)" in page


def test_a_link_never_leads_out_of_the_search_s_folder(tmp_path):
    odd = trial(0, *TRIALS[0]) | {"folder": "../../elsewhere"}
    root = make_search(tmp_path / "tried", trials=[odd], best=0)
    assert search.read(root).trials[0].folder == "elsewhere"


@pytest.mark.parametrize("damage", ["{}", '{"space": 3}', "[]", "not json"])
def test_a_damaged_record_is_refused_in_one_line(searched, damage):
    (searched / "search.json").write_text(damage)
    with pytest.raises(InputError, match=r"search\.json") as refused:
        outputs.write_report(searched)
    assert "\n" not in str(refused.value)


def test_sweeps_without_a_record_have_no_such_section(tmp_path):
    make_run(tmp_path, "plain-20", 0)
    runs = sweep.load(tmp_path)
    assert search.findings(runs) is None and tuned.findings(runs) is None
    assert not any(name.startswith(("search", "tuned")) for name, _ in charts.draw_all(runs))


# Final training errors by label and seed. Plain rises by 40, 41, 45, each tuned by 10, 12, 11.
FINALS = {
    "plain-20": (10.0, 11.0, 12.0),
    "plain-56": (50.0, 52.0, 57.0),
    "tuned-plain-20": (5.0, 6.0, 6.0),
    "tuned-plain-56": (15.0, 18.0, 17.0),
    "ResNet-20": (4.0, 5.0, 6.0),
    "ResNet-56": (4.0, 6.0, 5.0),
    "tuned-ResNet-20": (3.0, 3.0, 3.0),
    "tuned-ResNet-56": (2.0, 3.0, 4.0),
}
OWN = {"plain-20": 0.1, "plain-56": 0.02, "ResNet-20": 0.2, "ResNet-56": 0.3}


def make_tuned(root, finals=FINALS):
    root.mkdir(parents=True)
    for label, errors in finals.items():
        net = label.removeprefix("tuned-")
        rate = OWN[net] if label != net else 0.01
        family, _, depth = net.rpartition("-")
        for seed, error in enumerate(errors):
            make_run(
                *(root, label, seed),
                residual=family != "plain",
                depth=int(depth),
                train=error,
                test=error + 5,
                fields={RATE: rate},
            )
    nets = [
        {
            "label": net,
            "tuned": f"tuned-{net}",
            "trials": 16,
            "states": ["completed"] * 16,
            "best_trial": 7,
            "parameters": {RATE: rate},
            "default_parameters": {RATE: 0.01},
            "val_error": 3.25,
            "default_val_error": 12.5,
            "default_state": "completed",
        }
        for net, rate in OWN.items()
    ]
    put(root, "tuned.json", {"changes": {}, "search_seed": 1000, "nets": nets})
    return root


def interval(values):
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return f"{np.mean(values) - half:.2f} to {np.mean(values) + half:.2f}"


def test_one_sentence_tells_what_depth_costs_by_the_default_recipe_and_with_each_net_tuned(
    tmp_path,
):
    found = tuned.findings(sweep.load(make_tuned(tmp_path / "nets")))
    plain, residual, how = found.sentences
    rise, own, less = (40.0, 41.0, 45.0), (10.0, 12.0, 11.0), (30.0, 29.0, 34.0)
    assert plain == (
        "Plain nets: from depth 20 to 56 the final training error rises by 42.00 points by the "
        f"default recipe (95 % interval {interval(rise)}, paired over 3 seeds) and rises by 11.00 "
        f"points with each net tuned (95 % interval {interval(own)}, paired over 3 seeds): 31.00 "
        f"points less with tuning (95 % interval of the difference {interval(less)}, 3 seeds)."
    )
    assert residual.startswith("Residual nets: from depth 20 to 56") and "may be chance" in residual
    assert "best of 16 trials on val" in how


def test_where_tuning_makes_the_rise_larger_the_sentence_says_more_and_its_interval_too(tmp_path):
    swapped = {
        **FINALS,
        **{f"tuned-plain-{depth}": FINALS[f"plain-{depth}"] for depth in (20, 56)},
        **{f"plain-{depth}": FINALS[f"tuned-plain-{depth}"] for depth in (20, 56)},
    }
    found = tuned.findings(sweep.load(make_tuned(tmp_path / "nets", swapped)))
    more = interval((30.0, 29.0, 34.0))
    assert found.sentences[0].endswith(
        f"31.00 points more with tuning (95 % interval of the difference {more}, 3 seeds)."
    )


def test_the_verdict_is_on_the_default_recipe_alone(tmp_path):
    root = make_tuned(tmp_path / "nets")
    written = outputs.write_report(root)
    assert [family.labels for family in written.verdict.families] == [
        ("plain-20", "plain-56"),
        ("ResNet-20", "ResNet-56"),
    ]
    assert [one.degradation for one in written.verdict.families] == ["observed", "not observed"]
    assert json.loads((root / "report" / "verdict.json").read_text())["families"][0]["recipe"] == ""
    assert written.text.splitlines()[-1] == written.verdict.text
    # Without the record of which is which, nothing would be said of tuned nets: each its recipe.
    (root / "tuned.json").unlink()
    assert len(verdict.judge(sweep.load(root)).families) == 6


def test_the_table_of_tuned_nets_has_both_recipes_of_each(tmp_path):
    (table,) = tuned.findings(sweep.load(make_tuned(tmp_path / "nets"))).tables
    assert table.rows[2][:6] == ("plain-56", "default", "0.01", "12.50", "3", "0")
    assert table.rows[3][:6] == ("tuned-plain-56", "its own", "0.02", "3.25", "3", "0")
    assert table.rows[3][6].startswith("16.67 (")


def test_the_figure_of_tuned_nets_has_each_family_by_both_recipes(tmp_path):
    runs = sweep.load(make_tuned(tmp_path / "nets"))
    drawn = dict(charts.draw_all(runs))
    assert "learning_rate_by_depth" not in drawn and "variants" not in drawn
    axes = drawn["tuned_degradation"].axes[0]
    labels = axes.get_legend_handles_labels()[1]
    assert labels == [
        *("plain nets, default recipe", "plain nets, each tuned"),
        *("residual nets, default recipe", "residual nets, each tuned"),
    ]
    lines = [np.asarray(bar.lines[0].get_ydata(), float) for bar in axes.containers]
    means = [[np.mean(FINALS[label]) for label in pair] for pair in zip(
        [f"{kind}{net}-20" for net in ("plain", "ResNet") for kind in ("", "tuned-")],
        [f"{kind}{net}-56" for net in ("plain", "ResNet") for kind in ("", "tuned-")],
        strict=True,
    )]  # fmt: skip
    np.testing.assert_allclose(lines, means)


def test_a_tuned_net_without_a_completed_run_leaves_nothing_to_say(tmp_path):
    root = make_tuned(tmp_path / "nets")
    for folder in root.glob("tuned-plain-56-*"):
        status = json.loads((folder / "status.json").read_text()) | {"state": "diverged"}
        put(folder, "status.json", status)
    found = tuned.findings(sweep.load(root))
    assert found.sentences[0] == (
        "Plain nets: no run of tuned-plain-56 was completed, so nothing can be said."
    )


def test_rows_of_the_grid_have_every_net_both_ways_and_only_its_own_recipe_differs():
    rows = tuned_degradation.rows(
        *((20, 56), ("plain", "residual"), (0, 1)), {"plain-56": {RATE: 0.3}}
    )
    made = {row.name: row.overrides for row in rows}
    assert len(made) == len(rows) == 2 * 2 * 2 * 2
    changed = dict(made["tuned-plain-56-seed1"])
    assert changed.pop(RATE) == 0.3
    assert changed == made["plain-56-seed1"]
    assert made["tuned-ResNet-20-seed0"] == made["ResNet-20-seed0"]
    assert tuned_degradation.SEARCH_SEED not in tuned_degradation.SEEDS


def test_what_the_searches_have_found_becomes_the_nets_own_recipes(tmp_path):
    for label in ("plain-20", "plain-56"):
        (tmp_path / label).mkdir()
        put(tmp_path / label, "search.json", content())
    told = tuned_degradation.described(["plain-20", "plain-56"], tmp_path, {DECAY: 0.0})
    assert told["changes"] == {DECAY: 0.0} and told["search_seed"] == 1000
    net = told["nets"][1]
    assert (net["label"], net["tuned"], net["best_trial"]) == ("plain-56", "tuned-plain-56", 4)
    assert net["parameters"][RATE] == 0.06 and net["default_parameters"][RATE] == 0.01
    assert (net["val_error"], net["default_val_error"]) == (7.5, 12.0)
    put(tmp_path / "plain-20", "search.json", content(best=None))
    with pytest.raises(InputError, match="plain-20 has no trial that was trained to the end"):
        tuned_degradation.described(["plain-20"], tmp_path, {})
