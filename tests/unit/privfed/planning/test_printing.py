"""What is printed fits 100 columns and says every number, as JSON the exact ones."""

import json

import pytest

from accountants import Budget
from privfed import BFV, AdamW, Plan, TrainingConfig
from privfed.planning.curves import curves_of
from privfed.planning.picture import curves_picture
from privfed.planning.printing import WIDTH, curves_table, table, to_json
from privfed.settings.privacy import OwnPrivacy

LONG = "department of cardiology and neurology of the university hospital"


def answer(**changes):
    given = {
        "sizes": {"north": 4000, "south": 3800, LONG: 3500, "west": 3500, "tiny": 90},
        "epsilon": 3.0,
        "delta": 1e-6,
        "expected_batch_size": 500,
        "rounds": 4,
        "parameters": 2_345_678,
        "own": {"south": OwnPrivacy(budget=Budget(epsilon=0.9, delta=1e-7), steps_per_round=2)},
    }
    return Plan(**{**given, **changes}).answer()


@pytest.fixture
def whole():
    return answer(seconds_per_example=0.02)


VARIANTS = [
    {},
    {"parameters": None, "seconds_per_example": 0.25},
    {"rounds": None},
    {"expected_batch_size": None, "minimum": 100},
    {"training": TrainingConfig(learning_rate=1e-3, optimizer=AdamW())},
    {"encryption": BFV(bits=4)},
    {"sizes": {f"client-{n}": 3000 for n in range(700)}, "own": {}, "clients_per_round": 100},
]


@pytest.mark.parametrize("changes", VARIANTS)
def test_no_line_is_wider_than_the_page(changes):
    found = answer(**changes)
    text = f"{table(found)}\n{curves_table(curves_of(found))}"
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert [line for line in text.splitlines() if line != line.rstrip()] == []


def test_it_says_whose_size_and_epsilon_are_meant(whole):
    text = " ".join(table(whole).split())
    assert "public sizes, of each client and not of all" in text
    assert "at each client's delta, for each of its own records" in text


def test_every_client_has_a_row_and_those_alike_share_one(whole):
    lines = table(whole).splitlines()
    (head,) = [line for line in lines if line.startswith("client ")]
    rows = lines[lines.index(head) + 1 : lines.index(head) + 4]
    assert [row.split()[0] for row in rows] == ["north", "south", "depar…pital"]
    assert f"{whole.noise_multipliers['south']:g}" in rows[1].split()
    assert rows[2].split("  ")[0].endswith("others")
    assert "tiny (90)" in table(whole)


def test_json_has_exact_numbers(whole):
    found = json.loads(json.dumps(to_json(whole, curves_of(whole)), allow_nan=False))
    assert found["clients"]["south"] == {
        "public_size": 3800,
        "sample_rate": 500 / 3800,
        "steps_per_round": 2,
        "rounds": 4,
        "noise_multiplier": whole.noise_multipliers["south"],
        "epsilon": whole.epsilons()["south"],
        "epsilon_budget": 0.9,
        "delta": 1e-7,
    }
    assert found["left_out"] == {"tiny": 90}
    assert found["neighbouring"] == "add_remove"
    assert found["gradients"]["seconds_per_example"] == 0.02
    assert len(found["bytes_of_round"]) == 4
    assert len(found["curves"]["epsilon"]) > 4


def test_a_plan_prints_its_own_answer():
    plan = Plan(
        sizes=dict.fromkeys("abc", 300), epsilon=2.0, delta=1e-4, rounds=2, expected_batch_size=50
    )
    assert plan.table() == table(plan.answer())
    assert plan.curves() == curves_of(plan.answer())


def test_other_rounds_show_what_plans_of_them_would_ask_for(whole):
    lines = [line.split() for line in table(whole).splitlines()]
    for rounds in (2, 4, 8):
        noise = answer(rounds=rounds).noise_multipliers["south"]
        assert [str(rounds), f"{noise:g}"] in [line[:2] for line in lines]


class TestCurves:
    def test_epsilon_grows_to_the_budget_at_the_last_round(self, whole):
        found = curves_of(whole)
        assert (found.client, found.budget, found.rounds) == ("south", 0.9, 4)
        spent = dict(found.epsilon)
        assert spent[0] == 0
        assert spent[4] == whole.epsilons()["south"] <= 0.9 < spent[5]
        assert list(spent.values()) == sorted(spent.values())

    def test_noise_of_a_batch_is_what_a_plan_of_it_asks_for(self, whole):
        points = {point.expected_batch_size: point for point in curves_of(whole).noise}
        assert points[500].noise_multiplier == whole.noise_multipliers["south"]
        other = answer(expected_batch_size=950).noise_multipliers["south"]
        assert points[950].noise_multiplier == other
        assert points[950].noise_of_step == other / 950
        assert max(points) == 3800

    def test_a_batch_that_no_noise_fits_has_none(self):
        own = {"west": OwnPrivacy(budget=Budget(epsilon=0.045, delta=1e-7))}
        found = curves_of(
            answer(
                sizes={"a": 4000, "b": 3800, "west": 128},
                own=own,
                expected_batch_size=128,
                rounds=1,
            )
        )
        assert found.noise[0].noise_multiplier is found.noise[0].noise_of_step is None
        assert "none fits" in curves_table(found)
        assert "<svg" in curves_picture(found).svg

    def test_the_picture_names_its_axes_and_the_budget(self, whole):
        picture = curves_picture(curves_of(whole))
        assert picture._repr_html_() == picture.svg
        for words in ("rounds of south", "budget 0.9", "expected batch", "epsilon"):
            assert words in picture.svg
        assert 'href="http' not in picture.svg
