"""Commands as they are typed, and the ledger that they are tried on."""

import json

from accountants import Ledger, PoissonGaussian
from accountants.__main__ import main
from accountants.events import Laplace

OWNER = {
    "client": "ward",
    "dataset": "notes-7",
    "unit": "one note, ü",
    "neighbouring": "add_remove",
}
STEP = PoissonGaussian(noise_multiplier=4.0, sample_rate=0.5, steps=8)


ADD = ("--neighbouring", "add_remove")
SCHEDULE = ("--noise-multiplier", "1.0", "--sample-rate", "0.01", "--steps", "1000")


def write_ledger(path):
    """A ledger file with two runs: one of three rounds, and one that was only reserved."""
    ledger = Ledger.create(path, **OWNER)
    for number in range(3):
        reservation = ledger.reserve("first", number, [STEP], lambda *_: None)
        ledger.commit(reservation.id, [STEP], b"update")
    ledger.reserve("second", 0, [STEP, Laplace(noise_multiplier=2.0)], lambda *_: None)
    return path


def write_export(path, target):
    target.write_text(json.dumps(Ledger.inspect(path).export()))
    return target


def run_command(capsys, *arguments):
    """Run a command that must work; its output."""
    code = main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    return out


def refused_command(capsys, *arguments):
    """Run a command that must be refused; its one line of reason."""
    code = main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    return err


def rows(text):
    """The lines of an output by their names; of repeated names, the last."""
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line[0] != " ")
