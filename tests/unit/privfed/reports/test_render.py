"""The page shows every client and round, escapes all text, and never shows too little epsilon."""

import re
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
from jinja2 import UndefinedError

from privfed.reports import render
from privfed.reports.budget import BudgetReport, Scope
from privfed.reports.clients import LastStatement, NotClosed
from privfed.reports.render import render_html
from privfed.reports.sections import Difference
from tests.unit.privfed.reports.made_up import (
    ACCOUNTING,
    ENCRYPTION,
    GUARANTEE,
    MEASURED,
    MECHANISM,
    RANDOMNESS,
    ROUND_RECORD,
    TRAINING,
    claiming,
    guarantee,
    report,
)


def test_every_client_and_round_is_on_the_page():
    html = render_html(report())
    for text in ("client-1", "client-2", "client-3", "1.5000", "other things", "sees what"):
        assert text in html
    assert html.count("<svg") == 2


def test_text_is_escaped():
    html = render_html(report(title="<script>alert(1)</script>"))
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html


def test_without_rounds_there_are_no_charts():
    assert "<svg" not in render_html(report(rounds=()))


def test_epsilon_is_rounded_up_and_its_lower_bound_down():
    clients = (
        guarantee(1, epsilon_spent=0.700001, epsilon_lower=0.600099, epsilon_if_begun=0.75),
        guarantee(2, epsilon_spent=1.200001, epsilon_lower=1.1, epsilon_if_begun=1.25),
    )
    html = render_html(claiming(1.200001, clients=clients))
    for shown in ("0.7001", "0.6000", "1.2001", "<b>1.201</b>"):
        assert shown in html
    for hidden in ("0.6001", "1.2000<", "0.7000"):
        assert hidden not in html


def test_while_it_goes_on_there_is_a_column_with_the_next_round_and_no_chart():
    """A page between two rounds is written quickly."""
    html = render_html(claiming(0.6 * 3, status="running", rounds_over=1))
    assert "with round 2</th>" in html
    assert "<b>1.8000</b>" in html
    assert "<svg" not in html
    assert "with round" not in render_html(report())


def test_the_best_attack_is_shown_in_percent_once_it_was_computed():
    assert '<td class="n">3.00 %</td>' in render_html(report())
    clients = tuple(guarantee(number, attack={}) for number in (1, 2, 3))
    assert "is computed when all rounds are over" in render_html(report(clients=clients))


def test_the_page_asks_for_nothing_outside_of_itself():
    references = re.findall(
        r"""(?:src|href)=["']?([^"'>]*)|url\(([^)]*)\)""", render_html(report())
    )
    assert references, "charts refer to parts of themselves"
    assert all((link or target).startswith("#") for link, target in references)
    assert "@import" not in render_html(report())
    assert "<script" not in render_html(report())


def test_every_anchor_can_be_copied():
    assert f"<code>3:{'ab' * 32}</code>" in render_html(report())


def test_an_absent_client_is_named_in_its_round():
    html = render_html(report())
    rounds = html[html.index("3. Rounds") : html.index("4. Assumptions")]
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", rounds)
    assert cells == ["1", "2", "client-3", "1.5000", "0.25", "1.38", "10", "20", "0.5"]


def test_figures_of_the_method_are_shown_with_their_names():
    """A round that lacks one has an empty cell; where no round has any, there is no table."""
    assert "What the method shows" not in render_html(report(rounds=(ROUND_RECORD,)))
    rows = [
        replace(ROUND_RECORD, round=1, figures={"share <lost>": 0.125, "share cut": 0.5}),
        replace(ROUND_RECORD, round=2, figures={"share cut": 0.0625}),
    ]
    html = render_html(report(rounds=tuple(rows)))
    table = html[html.index("What the method shows") :]
    table = table[: table.index("</table>")]
    assert "costs no epsilon" in table
    assert re.findall(r"<th[^>]*>([^<]*)</th>", table) == [
        "round",
        "share &lt;lost&gt;",
        "share cut",
    ]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table) == ["1", "0.125", "0.5", "2", "", "0.0625"]


def test_signal_to_noise_is_shown_where_it_is_known():
    """In no round: no column; in one of two: a cell of the other stays empty."""
    known, unknown = ROUND_RECORD, replace(ROUND_RECORD, round=2, signal_to_noise=None)
    without = render_html(report(rounds=(unknown,)))
    assert "signal to noise" not in without.lower()
    html = render_html(report(rounds=(known, unknown)))
    rounds = html[html.index("3. Rounds") : html.index("4. Assumptions")]
    assert "Near 1 the update is little but noise" in rounds
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", rounds)
    assert [cells[5], cells[14]] == ["1.38", ""]


def test_a_missing_field_is_an_error_and_no_gap():
    """The environment of the page knows no empty value for a name that is not there."""
    values = {field.name: getattr(report(), field.name) for field in fields(BudgetReport)}
    whole = SimpleNamespace(**values, metric="accuracy")
    assert "epsilon is at most 1.5" in render_html(whole)
    del whole.headline
    with pytest.raises(UndefinedError, match="headline"):
        render_html(whole)


def rows_of(html, title):
    """The labels and cells of one section."""
    section = html[html.index(f"<h3>{title}</h3>") :]
    section = section[: section.index("</table>")]
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td>', section, re.DOTALL)
    return {label: re.sub(r"\s+", " ", value).strip() for label, value in rows}


class TestSections:
    @pytest.mark.parametrize(
        "section", [GUARANTEE, MECHANISM, ACCOUNTING, ENCRYPTION, MEASURED, RANDOMNESS, TRAINING]
    )
    def test_every_field_has_a_label_of_its_own(self, section):
        """But for what stands in the words of another field."""
        hidden = {"follow_released", "secret"}
        optional = {"key_holder_bytes", "other_bases"}
        shown = {f.name for f in fields(section)} - hidden - optional
        assert len(render.labelled(section)) == len(shown)

    def test_the_private_step(self):
        rows = rows_of(render_html(report()), "The private step")
        assert rows["clipping norm C"] == "0.75"
        assert rows["expected batch B (public divisor)"] == "20"
        assert rows["steps per round"] == "2"
        assert rows["trainable parameters"] == "640"
        assert rows["sampler that ran"] == "Poisson, as drawn"
        assert rows["sampler assumed by the accountant"] == "Poisson, as planned"

    def test_steps_that_differ_are_shown_of_each_client(self):
        own = replace(MECHANISM, steps_per_round={"north": 1, "south": 3})
        rows = rows_of(render_html(report(mechanism=own)), "The private step")
        assert rows["steps per round"] == "north: 1; south: 3"

    @pytest.mark.parametrize(
        ("follows", "shown"),
        [
            (False, "+-0.01562"),
            (True, "+-0.01562, then from the released mean of the round before"),
        ],
    )
    def test_the_public_range(self, follows, shown):
        section = replace(ENCRYPTION, follow_released=follows)
        rows = rows_of(render_html(report(encryption=section)), "Encryption")
        assert rows["public range"] == shown
        assert rows["bits per value"] == "9"
        assert rows["parameters"] == "ring: 4096; key id: 5e5e"
        assert rows["roster (SHA-256)"] == "4d" * 32

    def test_what_was_measured_is_one_row(self):
        rows = rows_of(render_html(report()), "Encryption")
        assert rows["measured"] == (
            "upload bytes per parameter and client: 2.25; "
            "download bytes per parameter and client: 3.5; "
            "seconds of the aggregator per client (check, add): 0.125; "
            "seconds from the sum to what clients came to: 0.0625; "
            "bytes to hand out the key, once: 72000"
        )

    def test_what_there_is_not_has_no_row(self):
        bare = replace(ENCRYPTION, keys=None, correctness=None, bits_per_value=None, measured=None)
        rows = rows_of(render_html(report(encryption=bare)), "Encryption")
        assert not {"keys", "correctness", "bits per value", "measured"} & set(rows)
        assert "None" not in render_html(report(encryption=bare))

    def test_the_claim_is_rounded_up(self):
        clients = (guarantee(1, epsilon_spent=0.700001, epsilon_if_begun=0.75),)
        rows = rows_of(render_html(claiming(0.700001, clients=clients)), "The claim")
        assert rows["epsilon"] == "0.7001"

    def test_the_seed_says_what_it_fixes(self):
        rows = rows_of(render_html(report()), "Randomness")
        assert rows["public seed"].startswith("41: fixes the split of the data")
        assert rows["noise"] == "ChaCha20 for noise"
        assert rows["batch sampling"] == "ChaCha20 for batches"


def cells(html, client):
    """The cells of a client's row in the table of section 2."""
    table = html[html.index("<h2>2.") : html.index("<h2>3.")]
    (row,) = re.findall(rf'<tr><td class="name">{client}<.*?</tr>', table, re.DOTALL)[:1]
    return [re.sub("<[^>]*>", " ", cell).strip() for cell in re.findall("<td.*?</td>", row)]


class TestWhoStatesIt:
    SIGNED = (
        guarantee(1, signed=True),
        guarantee(2, signed=True, recomputed=False),
        guarantee(3, signed=True, attack={}),
    )
    AWAY = (
        NotClosed(
            id="away",
            last=LastStatement(round=2, epsilon=0.70001, ledger_length=5, ledger_head="7c" * 32),
        ),
        NotClosed(id="silent", last=None),
    )

    def page(self, **changes):
        return render_html(report(scope=Scope.FEDERATION, clients=self.SIGNED, **changes))

    def test_of_a_simulation_it_is_the_ledger(self):
        assert cells(render_html(report()), "client-2")[-2:] == ["its ledger", "yes"]
        assert "signed by" not in render_html(report())

    def test_of_statements_it_is_the_client_and_whether_it_was_recomputed(self):
        html = self.page()
        assert cells(html, "client-1")[-2:] == ["stated and signed by client-1", "yes"]
        assert cells(html, "client-2")[-2:] == ["stated and signed by client-2", "no"]
        assert "put together from what each client states of itself and signs" in html
        assert "<code>roster.json</code>" in html

    def test_every_row_of_the_table_has_as_many_cells_as_its_head(self):
        for status, epsilon in (("complete", 1.5), ("running", 0.6 * 3)):
            html = render_html(claiming(epsilon, status=status))
            table = html[html.index("<h2>2.") : html.index("<h2>3.")]
            head = table[: table.index("</thead>")].count("<th")
            assert len(cells(html, "client-1")) == head - 1, "thead itself is one"
            assert head == (16 if status == "running" else 15)

    def test_without_a_bound_none_is_shown(self):
        claim = replace(GUARANTEE, epsilon=None, delta=None)
        html = self.page(not_closed=self.AWAY, guarantee=claim)
        assert "<b>none stated</b>" in html
        assert "<b>3 of 5 closed</b>" in html
        assert rows_of(html, "The claim")["epsilon"] == "none is stated"
        assert "delta" not in rows_of(html, "The claim")
        _, away, who, recomputed = cells(html, "away")
        assert "no bound is stated" in away
        assert "after round 2, was an upper bound of 0.7001" in away
        assert "is at least that" in away
        assert (who, recomputed) == ("stated and signed by away, after round 2", "no")
        _, silent, nobody, _ = cells(html, "silent")
        assert "It signed no statement of what it spent." in silent
        assert nobody == "nobody"
        assert f"<code>5:{'7c' * 32}</code>" in html
        assert "largest epsilon of those that closed" in html

    @pytest.mark.parametrize(("status", "epsilon"), [("complete", 1.5), ("running", 0.6 * 3)])
    def test_a_row_without_a_bound_is_as_wide_as_the_others(self, status, epsilon):
        claim = replace(GUARANTEE, epsilon=None, delta=None)
        html = self.page(not_closed=self.AWAY, guarantee=claim, status=status)
        table = html[html.index("<h2>2.") : html.index("<h2>3.")]
        head = table[: table.index("</thead>")].count("<th") - 1  # thead itself
        (span,) = set(re.findall(r'colspan="(\d+)"', table))
        assert int(span) + 3 == head == len(cells(html, "client-1"))

    def test_attacks_are_shown_of_those_that_computed_them(self):
        html = self.page()
        table = html[html.index("What the best attack") : html.index("<h2>3.")]
        assert re.findall(r'<td class="name">(.*?)</td>', table) == ["client-1", "client-2"]

    def test_what_differs_is_told_with_names(self):
        differs = (
            Difference(field="randomness.batch_sampling", value="dice", clients=("a", "b")),
            Difference(field="versions.python", value="3.14", clients=("c",)),
        )
        html = self.page(differences=differs)
        assert "<td>randomness: batch sampling</td><td>dice</td><td>a, b</td>" in html
        assert "<td>versions: python</td><td>3.14</td><td>c</td>" in html
        assert "What clients state differently" not in self.page()


class TestAClientsOwn:
    def page(self):
        clients = (guarantee(2),)
        return render_html(claiming(1.0, scope=Scope.CLIENT, clients=clients))

    def test_it_is_named_and_nothing_is_said_of_others(self):
        html = self.page()
        assert "<h1>Budget report of client-2</h1>" in html
        assert "This is the report of client-2, from its own ledger." in html
        assert "2. client-2: spent against budget" in html
        assert ">largest epsilon" not in html
        assert '<span class="soft">epsilon spent</span><b>1.000</b>' in html

    def test_how_many_took_part_is_public(self):
        assert '<span class="soft">clients in the run</span><b>3</b>' in self.page()

    def test_names_are_escaped(self):
        rows = (guarantee(2, id="<b>x</b>"),)
        record = replace(ROUND_RECORD, epsilon={"<b>x</b>": 1.0})
        html = render_html(claiming(1.0, scope=Scope.CLIENT, clients=rows, rounds=(record,)))
        assert "<b>x</b>" not in html
