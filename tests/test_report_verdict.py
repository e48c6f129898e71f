import json
import math

import numpy as np
import pytest
import scipy.stats

from resnet_jax.report import intervals, sweep, verdict
from tests.test_report_runs import make_run, make_sweep

RNG = np.random.RandomState(0)


def judged(root):
    return verdict.judge(sweep.load(root))


def family(result, name):
    (found,) = [item for item in result.families if item.family == name]
    return found


def test_paired_differences_agree_with_scipy():
    a, b = RNG.normal(10, 2, 6), RNG.normal(12, 2, 6)
    found = intervals.difference(dict(enumerate(a)), dict(enumerate(b)))
    expected = scipy.stats.ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.method == "paired" and found.mean == pytest.approx((b - a).mean())


def test_differences_without_shared_seeds_agree_with_scipys_welch_interval():
    a, b = RNG.normal(10, 2, 4), RNG.normal(12, 5, 7)
    found = intervals.difference(dict(enumerate(a)), dict(enumerate(b, 100)))
    expected = scipy.stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(expected)
    assert (found.method, found.n) == ("Welch", (4, 7))
    assert intervals.difference(dict(enumerate(a)), dict(enumerate(b)), paired=False) == found


def test_only_shared_seeds_are_compared_where_there_are_two():
    found = intervals.difference({0: 1.0, 1: 2.0, 2: 50.0}, {0: 2.0, 1: 4.0, 3: 90.0})
    assert (found.mean, found.n, found.left_out) == (1.5, (2, 2), (2, 3))
    # Differences 1 and 2: mean 1.5, standard error 0.5, t(0.975, 1) = tan(0.475 pi).
    assert found.high - 1.5 == pytest.approx(0.5 * math.tan(0.475 * math.pi))


def test_means_agree_with_scipy_and_one_seed_has_no_interval():
    values = RNG.normal(5, 1, 5)
    found = intervals.mean(list(values))
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(expected)
    one = intervals.mean([3.0])
    assert (one.mean, one.n) == (3.0, 1) and math.isnan(one.sd) and math.isnan(one.low)
    assert math.isnan(intervals.mean([]).mean)


@pytest.mark.parametrize(
    ("size", "paired", "seeds"),
    # Tables of power for the t-test at 5 %, two-sided, 80 % power (Cohen 1988, as in G*Power).
    [(0.5, True, 34), (0.8, True, 15), (1.0, True, 10)]
    + [(0.5, False, 64), (0.8, False, 26), (1.0, False, 17)],
)
def test_the_seeds_needed_are_those_of_published_power_tables(size, paired, seeds):
    assert intervals.seeds_needed(size, 1.0, paired=paired) == seeds
    assert intervals.seeds_needed(-3 * size, 3.0, paired=paired) == seeds


def test_the_seeds_needed_have_limits():
    assert intervals.seeds_needed(1000.0, 1e-6, paired=True) == 2
    assert intervals.seeds_needed(1.0, 0.0, paired=False) == 2
    assert intervals.seeds_needed(0.001, 1.0, paired=True) is None
    assert intervals.seeds_needed(0.0, 1.0, paired=True) is None


def test_no_variance_at_all_gives_an_interval_of_no_width():
    found = intervals.difference({0: 1.0, 1: 2.0}, {0: 4.0, 1: 5.0})
    assert (found.mean, found.low, found.high, found.outcome) == (3.0, 3.0, 3.0, "higher")
    welch = intervals.difference({0: 1.0, 1: 1.0}, {2: 4.0, 3: 4.0})
    assert (welch.low, welch.high) == (3.0, 3.0)
    assert intervals.difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}).outcome == "cannot tell"


def test_clear_degradation_is_observed_for_plain_and_excluded_for_residual(tmp_path):
    result = judged(make_sweep(tmp_path, depths=(8, 14, 20), seeds=3, rise=20.0))
    plain, residual = family(result, "plain"), family(result, "residual")
    assert (plain.degradation, plain.basis) == ("observed", "interval")
    assert [(c.a, c.b) for c in plain.successive] == [
        ("plain-8", "plain-14"), ("plain-14", "plain-20"),
    ]  # fmt: skip
    assert (plain.overall.a, plain.overall.b) == ("plain-8", "plain-20")
    assert plain.overall.difference.mean == pytest.approx(40, abs=0.3)
    assert "From plain-8 to plain-20 the final training error rises by" in plain.text
    assert residual.degradation == "not observed"
    assert residual.overall.difference.outcome == "lower"
    assert "excludes a rise above the margin of 2 points" in residual.text
    pairs = {(p.a, p.b): p.difference.mean for p in result.residual_minus_plain}
    # Test errors: plain 10, 30, 50; residual 8, 7, 6.
    assert pairs == {
        ("plain-8", "ResNet-8"): pytest.approx(-2),
        ("plain-14", "ResNet-14"): pytest.approx(-23),
        ("plain-20", "ResNet-20"): pytest.approx(-44),
    }


def test_a_sure_rise_below_the_margin_is_not_degradation(tmp_path):
    for seed in range(4):
        make_run(tmp_path, "plain-8", seed, train=5.0)
        make_run(tmp_path, "plain-14", seed, train=6.0 + 0.01 * seed)
    plain = family(judged(tmp_path), "plain")
    assert plain.overall.difference.low > 0 and plain.degradation == "not observed"
    assert "excludes a rise above the margin" in plain.text


def test_too_few_seeds_are_said_to_be_too_few_with_an_estimate_of_how_many(tmp_path):
    for seed, (a, b) in enumerate([(5.0, 7.0), (5.0, 15.0)]):
        make_run(tmp_path, "plain-8", seed, train=a)
        make_run(tmp_path, "plain-14", seed, train=b)
    plain = family(judged(tmp_path), "plain")
    # Differences 2 and 10: mean 6, interval 6 +- 12.7 * 4.
    assert plain.degradation == "undecided" and plain.overall.difference.outcome == "cannot tell"
    assert plain.text.startswith("Plain nets: degradation undecided. From plain-8 ")
    assert "interval contains 0" in plain.text and "cannot be excluded" not in plain.text
    needed = intervals.seeds_needed(6.0, math.sqrt(32), paired=True)
    assert plain.overall.difference.seeds_needed == needed
    assert f"About {needed} seeds" in plain.text and "estimate" in plain.text


def test_one_seed_has_no_interval_and_the_text_says_so(tmp_path):
    make_run(tmp_path, "plain-8", 0, train=5.0)
    make_run(tmp_path, "plain-14", 0, train=50.0)
    plain = family(judged(tmp_path), "plain")
    assert (plain.degradation, plain.basis) == ("observed", "difference alone")
    assert "one seed: no interval" in plain.text
    assert math.isnan(plain.overall.difference.low)


def test_unpaired_seeds_are_compared_by_welch(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path, "plain-8", seed, train=5.0 + 0.1 * seed)
        make_run(tmp_path, "plain-14", seed + 10, train=50.0 + seed)
    plain = family(judged(tmp_path), "plain")
    assert plain.overall.difference.method == "Welch" and plain.degradation == "observed"
    assert "Welch, 3 and 3 seeds" in plain.text


def test_a_deeper_net_of_which_all_seeds_diverge_is_degradation(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path, "plain-8", seed)
        make_run(tmp_path, "plain-14", seed, state="diverged", step=40)
    plain = family(judged(tmp_path), "plain")
    assert (plain.degradation, plain.basis) == ("observed", "divergence")
    assert plain.failed == ("plain-14",)
    assert "All 2 seeds of plain-14 diverged (plain-14-seed0, plain-14-seed1)." in plain.text


def test_diverged_seeds_are_counted_and_named_and_the_mean_is_of_the_others(tmp_path):
    for seed in (0, 1, 2):
        make_run(tmp_path, "plain-8", seed, train=5.0)
        state = {"state": "diverged", "step": 40} if seed == 1 else {"train": 30.0 + seed}
        make_run(tmp_path, "plain-14", seed, **state)
    plain = family(judged(tmp_path), "plain")
    assert plain.diverged == ("plain-14-seed1",) and plain.overall.b_mean == 31.0
    assert "1 of 3 seeds of plain-14 diverged (plain-14-seed1)" in plain.text


def test_one_depth_is_not_asked_about(tmp_path):
    make_run(tmp_path, "plain-8")
    assert family(judged(tmp_path), "plain").degradation == "not asked"


def test_learning_rates_are_judged_apart_and_warm_ups_together(tmp_path):
    for rate in (0.1, 0.01):
        for depth in (8, 14):
            fields = {"optimizer.learning_rate": rate, "model.residual": False}
            fields["optimizer.warmup"] = "constant" if depth == 14 else "none"
            label = f"plain-{depth}-lr{rate}"
            make_run(tmp_path, label, depth=depth, train=rate * depth, fields=fields)
    result = judged(tmp_path)
    assert {f.recipe for f in result.families} == {"learning rate 0.1", "learning rate 0.01"}
    assert all("differ in their warm-up" in f.text for f in result.families)


def full_length(root, original=True, seeds=3, steps=64_000):
    dataset = {"name": "cifar10", "sha256": "c" * 64, "original": original}
    fields = {"data.name": "cifar10", "train.steps": steps}
    options = {"dataset": dataset, "fields": fields, "interval": steps // 10}
    for seed in range(seeds):
        make_run(root, "ResNet-56", seed, train=0.1, test=7.0 + 0.1 * seed, **options)
        make_run(root, "plain-56", seed, train=5.0, test=10.0 + 0.1 * seed, **options)
    return judged(root).acceptance


def test_bands_apply_to_full_length_runs_on_the_original_files(tmp_path):
    accepted = full_length(tmp_path)
    assert accepted.applies
    assert {check.what: check.passed for check in accepted.checks} == {
        "ResNet-56 test error 6.4 to 7.5 %": True,  # 7.1
        "plain-56 test error 12.0 to 15.5 %": False,  # 10.1
        "plain-56 at least 4 points above ResNet-56 in test error": False,  # 3.0
    }
    assert "Of 3 expectations around the published values, 1 are met" in accepted.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"original": False}, "a copy of CIFAR-10"),
        ({"original": None}, "not recorded"),
        ({"seeds": 2}, "n is 2, below 3"),
        ({"steps": 400}, "400 steps, not 64,000"),
    ],
)
def test_other_runs_are_compared_with_one_another_only_and_the_text_says_why(
    tmp_path, options, reason
):
    accepted = full_length(tmp_path, **options)
    assert not accepted.applies and not accepted.checks
    assert accepted.text.startswith("These runs are compared with one another only")
    assert reason in accepted.text


def test_the_verdict_is_json_and_names_what_was_left_out(tmp_path):
    make_sweep(tmp_path, seeds=1)
    (tmp_path / "plain-99-seed0").mkdir()
    make_run(tmp_path, "plain-20", state="running", step=20)
    result = judged(tmp_path)
    assert result.left_out == ("plain-20-seed0", "plain-99-seed0")
    assert "plain-99-seed0" in result.text and "plain-20-seed0 (running)" in result.text
    assert json.loads(json.dumps(result.as_dict()))["families"][0]["family"] == "plain"


def test_nothing_finished_is_nothing_to_judge(tmp_path):
    make_run(tmp_path, "plain-8", state="running", step=20)
    assert "nothing to judge" in judged(tmp_path).text


def test_seeds_that_do_not_differ_at_all_exclude_nothing(tmp_path):
    for seed in range(2):
        make_run(tmp_path, "ResNet-8", seed, train=5.0)
        make_run(tmp_path, "ResNet-14", seed, train=4.0)
    text = family(judged(tmp_path), "residual").text
    assert "the seeds do not differ at all" in text
    assert "What other seeds would do is not known." in text and "excludes" not in text
