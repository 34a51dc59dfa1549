"""Contracts of every schedule in the folder, and the numbers of each curve."""

import pytest
import torch

from gptwright.config.slot import Slot
from gptwright.errors import ConfigError

SLOT = Slot("schedule", package="gptwright.optim.schedule", base="gptwright.optim.base:Schedule")
CASES = [(name, example) for name, owner in SLOT.components().items() for example in owner.EXAMPLES]
every_schedule = pytest.mark.parametrize(("name", "example"), CASES, ids=[f"{n}-{e}" for n, e in CASES])


def schedule(name, total, **settings):
    owner = SLOT.resolve(name)
    return owner(owner.Config.from_dict(settings), total)  # type: ignore[call-arg]


def curve(name, total, **settings):
    made = schedule(name, total, **settings)
    return [made.scale(step) for step in range(total)]


def test_the_menu_is_the_folder():
    assert SLOT.names() == ["constant", "cosine", "linear", "one_cycle", "wsd"]


@every_schedule
@pytest.mark.parametrize("total", [30, 101])
def test_multipliers_lie_between_zero_and_one_past_the_end_too(name, example, total):
    made = schedule(name, total, **example)
    values = [made.scale(step) for step in range(total + 5)]
    assert all(0 <= value <= 1 for value in values)
    assert values[-1] == values[-2]
    assert values[0] > 0


@pytest.mark.parametrize("name", SLOT.names())
@pytest.mark.parametrize("total", [1, 2, 3, 10])
def test_the_shortest_runs_work_with_default_settings(name, total):
    assert all(0 <= value <= 1 for value in curve(name, total))


@every_schedule
def test_it_is_a_pure_function_of_the_step(name, example):
    made = schedule(name, 50, **example)
    forward = [made.scale(step) for step in range(50)]
    assert [made.scale(step) for step in reversed(range(50))] == forward[::-1]


@every_schedule
def test_apply_scales_the_initial_rate_of_every_group(name, example):
    groups = [{"params": [torch.zeros(1)], "lr": lr, "initial_lr": lr} for lr in (0.1, 0.02)]
    optimizer = torch.optim.SGD(groups)
    made = schedule(name, 50, **example)
    scale = made.apply(optimizer, 17)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1 * scale, 0.02 * scale]
    assert scale == made.scale(17)


def test_warm_up_climbs_to_the_peak_that_the_decay_starts_from():
    values = curve("cosine", 100, warmup_steps=4)
    assert values[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert values[5] < 1


def test_warm_up_as_a_fraction_and_by_default():
    assert schedule("cosine", 200, warmup_fraction=0.1).warmup == 20
    assert schedule("cosine", 200).warmup == 10
    assert schedule("constant", 200).warmup == 0
    assert schedule("linear", 200, warmup_steps=0).scale(0) == 1


def test_cosine_and_linear_reach_their_floor_when_all_steps_are_done():
    assert schedule("cosine", 100, min_ratio=0.1).scale(100) == pytest.approx(0.1)
    assert schedule("cosine", 100, warmup_steps=0, min_ratio=0.2).scale(50) == pytest.approx(0.6)
    assert schedule("linear", 100, warmup_steps=0, min_ratio=0.5).scale(50) == pytest.approx(0.75)
    assert schedule("linear", 100).scale(99) > 0


def test_wsd_is_flat_until_its_fall():
    values = curve("wsd", 100, warmup_steps=10, decay_fraction=0.2, decay="linear")
    assert values[10:81] == [1.0] * 71
    assert values[90] == pytest.approx(0.5)
    assert curve("wsd", 100, warmup_steps=10)[85] == pytest.approx(1 - 0.25**0.5)
    assert curve("wsd", 100, warmup_steps=10, decay="cosine", min_ratio=0.1)[90] == pytest.approx(0.55)


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [True, False])
@pytest.mark.parametrize(("total", "pct"), [(50, 0.3), (37, 0.25), (8, 0.5), (11, 0.05)])
def test_one_cycle_is_torchs_curve(anneal, three_phase, total, pct):
    settings = {"pct_start": pct, "three_phase": three_phase, "div_factor": 20.0, "final_div_factor": 100.0}
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=total, anneal_strategy=anneal, cycle_momentum=False, **settings
    )
    expected = []
    for step in range(total):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < total - 1:
            reference.step()
    assert curve("one_cycle", total, anneal=anneal, **settings) == pytest.approx(expected, rel=1e-12)


def test_a_warm_up_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps is 300 but the run has 200 steps.*lower.*raise train\.steps"):
        schedule("cosine", 200, warmup_steps=300)


def test_the_fall_in_steps():
    values = curve("wsd", 100, warmup_steps=10, decay_steps=20, decay="linear")
    assert values == curve("wsd", 100, warmup_steps=10, decay_fraction=0.2, decay="linear")
    assert schedule("wsd", 50, decay_steps=0).scale(50) == 1
    assert schedule("wsd", 100).decay_steps == 20
    assert schedule("wsd", 100, decay_fraction=0.29).decay_steps == 29


@pytest.mark.parametrize(
    ("name", "settings", "same"),
    [
        ("constant", {}, 100),
        ("constant", {"warmup_steps": 7}, 100),
        ("wsd", {"warmup_steps": 7, "decay_steps": 20}, 81),
    ],
)
def test_a_longer_run_has_had_the_same_rates_so_far(name, settings, same):
    short, longer = curve(name, 100, **settings), curve(name, 250, **settings)
    assert short[:same] == longer[:same]
    assert longer[same : same + 20] == [1.0] * 20


@pytest.mark.parametrize("three_phase", [True, False])
def test_one_cycle_climbs_for_steps_as_for_the_fraction_they_are(three_phase):
    in_steps = curve("one_cycle", 50, warmup_steps=20, three_phase=three_phase)
    assert in_steps == pytest.approx(curve("one_cycle", 50, pct_start=0.4, three_phase=three_phase), rel=1e-12)
    assert in_steps[19] == 1.0


def test_a_climb_longer_than_the_run_is_refused():
    with pytest.raises(ConfigError, match=r"warmup_steps is 300 but the run has 200 steps: .* at most 200, or raise"):
        schedule("one_cycle", 200, warmup_steps=300)
    with pytest.raises(ConfigError, match=r"200 steps, of which three_phase spends the climb twice: .* at most 100"):
        schedule("one_cycle", 200, warmup_steps=101, three_phase=True)


def test_one_cycle_says_what_it_calls_a_fraction():
    with pytest.raises(ConfigError, match="one_cycle calls the fraction of its climb pct_start, as torch does"):
        schedule("one_cycle", 200, warmup_fraction=0.1)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("one_cycle", {"warmup_steps": 5, "pct_start": 0.1}, r"warmup_steps 5 and pct_start 0\.1 both say how long"),
        ("wsd", {"decay_steps": 5, "decay_fraction": 0.1}, r"decay_steps 5 and decay_fraction 0\.1 both say how long"),
    ],
)
def test_one_length_said_twice_is_refused(name, settings, sentence):
    with pytest.raises(ConfigError, match=sentence):
        schedule(name, 100, **settings)


def test_wsd_refuses_phases_that_do_not_fit():
    with pytest.raises(ConfigError, match=r"warms up for 5 and decays for 300 steps, but the run has 100: both must"):
        schedule("wsd", 100, decay_steps=300)
    with pytest.raises(ConfigError, match=r"warms up for 90 and decays for 20 steps, but the run has 100"):
        schedule("wsd", 100, warmup_steps=90)


def test_both_ways_to_say_the_warm_up_are_refused_together():
    with pytest.raises(ConfigError, match=r"warmup_steps 5 and warmup_fraction 0\.1 both say"):
        schedule("linear", 100, warmup_steps=5, warmup_fraction=0.1)


def test_three_phases_need_a_climb_of_at_most_half():
    with pytest.raises(ConfigError, match=r"pct_start is 0.6, but three_phase spends it twice"):
        schedule("one_cycle", 100, pct_start=0.6, three_phase=True)


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(ConfigError, match=r"0 steps makes no sense; set train\.steps"):
        schedule("constant", 0)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("cosine", {"min_ratio": 1.5}),
        ("cosine", {"warmup_steps": -1}),
        ("cosine", {"pct_start": 0.3}),
        ("one_cycle", {"warmup_steps": -3}),
        ("one_cycle", {"pct_start": 1.2}),
        ("wsd", {"decay_steps": -1}),
        ("wsd", {"decay_fraction": 1.1}),
        ("wsd", {"decay": "steep"}),
        ("one_cycle", {"div_factor": 0.5}),
    ],
)
def test_bad_settings_are_named(name, setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        schedule(name, 100, **setting)
