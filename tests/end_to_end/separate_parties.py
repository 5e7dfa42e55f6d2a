"""Client, aggregator and key holder of one small round, each started as a process of its own.

Started by `test_separate_processes.py`. The aggregator waits on its standard input when the round
is over, so that its memory can be searched; the others write what they know into files, for the
test to search for.
"""

import io
import json
import socket
import sys
from pathlib import Path

import numpy as np

from accountants import Anchor
from privfed.encryption.parameters import derive
from privfed.identity.keys import Identity
from privfed.identity.roster import Roster
from privfed.protocol import streams
from privfed.protocol.envelopes import Envelope, write_envelope
from privfed.protocol.kinds import CHALLENGE, LEDGER, LISTING, UPDATE
from privfed.protocol.terms import Terms
from privfed.settings.encryption import Custody

CLIENTS = ("east", "north", "west")
PARAMS = 5000
ANCHOR = Anchor(length=2, head="00" * 32)


def parameters(custody):
    return derive(num_clients=len(CLIENTS), bits=12, num_params=PARAMS, custody=custody)


def terms_of(custody, roster, number):
    manifest = {
        "base": "00" * 32,
        "encryption": parameters(custody).to_json(),
        "roster": roster.digest().hex(),
    }
    return Terms(run="apart", round=number, manifest=manifest)


def native_bytes(key, shape):
    """Four residues of a secret key, as SEAL holds them in memory."""
    from privfed.custody.native import ScratchFile, uncompressed

    with ScratchFile() as scratch:
        key.native()[1].save(scratch.path)
        return uncompressed(scratch.read(), shape.single_bytes)[-3000:-2968]


def exchange(stream, message):
    streams.send(stream, message)
    return streams.receive(stream)


def play_clients(folder, custody, roster, port):
    """All clients, in one process: keys, updates, answers, and the sum they read."""
    from privfed.custody import key_exchange
    from privfed.custody.keys import SharedSecret, shared_context
    from privfed.custody.opened_rounds import OpenedRounds
    from privfed.custody.round_key import RoundKeyCipher
    from privfed.custody.shared_key import SharedKeyCipher
    from privfed.encryption import frames

    chosen = parameters(custody)
    identities = {name: Identity.load(folder / f"{name}.identity") for name in CLIENTS}
    stream = socket.create_connection(("127.0.0.1", port)).makefile("rwb")
    agreed = terms_of(custody, roster, 1)
    terms, known = agreed, {}
    if custody is Custody.SHARED_KEY:
        context, shape = shared_context(chosen), frames.ciphertext_shape(chosen)
        run = terms_of(custody, roster, 0)
        made = SharedSecret.generate(context, shape)
        relayed = exchange(stream, key_exchange.share_secret(made, identities["east"], roster, run))
        known = {"tag key": made.tag_key.hex(), "secret key": native_bytes(made, shape).hex()}
        secrets = {"east": made}
        for name in CLIENTS[1:]:
            secrets[name] = key_exchange.receive_secret(
                relayed, identities[name], roster, run, maker="east", context=context, shape=shape
            )
        ciphers = {}
        for name, secret in secrets.items():
            opened = OpenedRounds.create(folder / f"opened-by-{name}.jsonl", CLIENTS)
            ciphers[name] = SharedKeyCipher(chosen, secret, roster, 3, opened, identities[name])
    else:
        ciphers = {}
        for name, identity in identities.items():
            opened = OpenedRounds.create(folder / f"opened-by-{name}.jsonl", CLIENTS)
            ciphers[name] = RoundKeyCipher(chosen, identity, roster, 3, opened)
        key = exchange(stream, b"key?")
        for cipher in ciphers.values():
            terms = cipher.accept_key(agreed, key)
    generator = np.random.default_rng(7)
    updates, messages = {}, {}
    for name, cipher in ciphers.items():
        updates[name] = generator.integers(-2047, 2048, PARAMS).astype("<i2")
        sink = io.BytesIO()
        write_envelope(
            sink,
            identities[name].sign,
            run=terms.run,
            round=terms.round,
            sender=name,
            kind=UPDATE,
            manifest={**terms.manifest, LEDGER: ANCHOR.to_json()},
            blobs=cipher.encrypt(terms, updates[name]),
        )
        messages[name] = sink.getvalue()
        known[f"update of {name}"] = updates[name][:24].tobytes().hex()
        known[f"update of {name}, wide"] = updates[name][:8].astype("<i8").tobytes().hex()
    (folder / "known-by-clients.json").write_text(json.dumps(known))
    for message in messages.values():
        end = exchange(stream, message)
    while Envelope.from_bytes(end).statement.kind in (CHALLENGE, LISTING):
        for name, message in messages.items():
            reply = exchange(stream, ciphers[name].answer(terms, end, message))
        end = reply
    opened = ciphers["west"].open(terms, end)
    exact = np.array_equal(opened.values, sum(u.astype(np.int64) for u in updates.values()))
    print("exact" if exact else "wrong", *opened.contributors, flush=True)
    sys.stdin.read()


def play_aggregator(folder, custody, roster, port, holder):
    """The aggregator: no TenSEAL, no custody, nobody's key but its own."""
    from privfed.encryption.adding import BFVAdder
    from privfed.parties.aggregator.collecting import Aggregator
    from privfed.parties.aggregator.openers import ClientsAgree, HolderOpens
    from privfed.protocol.links import AddressLink

    identity = Identity.load(folder / "aggregator.identity")
    with socket.create_server(("127.0.0.1", port)) as server:
        print("ready", flush=True)
        stream = server.accept()[0].makefile("rwb")
    custodian = ClientsAgree(identity, roster)
    if custody is Custody.KEY_HOLDER:
        custodian = HolderOpens(AddressLink(f"127.0.0.1:{holder}"), identity, roster)
    opening = custodian.begin(terms_of(custody, roster, 1))
    first = streams.receive(stream)  # the wrapped keys to relay, or a request for the round's key
    streams.send(stream, opening.key or first)
    aggregator = Aggregator(
        identity=identity,
        roster=roster,
        terms=opening.terms,
        cohort=CLIENTS,
        anchors=dict.fromkeys(CLIENTS, Anchor(length=1, head="00" * 32)),
        adder=BFVAdder(parameters(custody)),
        min_clients=3,
    )
    for _ in CLIENTS[:-1]:
        aggregator.receive(streams.receive(stream))
        streams.send(stream, b"received")
    aggregator.receive(streams.receive(stream))

    def ask(challenge):
        answers = {}
        streams.send(stream, challenge)
        for name in CLIENTS:
            answers[name] = streams.receive(stream)
            if name != CLIENTS[-1]:
                streams.send(stream, challenge)
        return answers

    streams.send(stream, custodian.close(opening.terms, aggregator.total(), ask))
    loaded = sorted(m for m in sys.modules if "tenseal" in m or m.startswith("privfed.custody"))
    print("done", *loaded, flush=True)
    sys.stdin.read()


def play_holder(folder, port):
    """The real `privfed key-holder`, whose secret keys are also written down for the test."""
    from privfed.cli import main as cli
    from privfed.custody.keys import RoundKey
    from privfed.encryption import frames

    generate = RoundKey.generate.__func__

    def noted(cls, chosen):
        key = generate(cls, chosen)
        known = native_bytes(key, frames.public_key_shape(chosen)).hex()
        (folder / "known-by-holder.json").write_text(json.dumps({"round key": known}))
        return key

    RoundKey.generate = classmethod(noted)
    authority = (folder / "authority.hex").read_text()
    sys.argv = ["privfed", "key-holder", "--identity", str(folder / "holder.identity")]
    sys.argv += ["--roster", str(folder / "roster.json"), "--authority", authority]
    sys.argv += ["--results", str(folder / "results"), "--listen", f"127.0.0.1:{port}"]
    cli.main()


def main():
    role, folder, custody = sys.argv[1], Path(sys.argv[2]), Custody(sys.argv[3])
    ports = [int(port) for port in sys.argv[4:]]
    authority = bytes.fromhex((folder / "authority.hex").read_text())
    roster = Roster.load(folder / "roster.json", authority=authority)
    if role == "clients":
        play_clients(folder, custody, roster, ports[0])
    elif role == "aggregator":
        play_aggregator(folder, custody, roster, *ports)
    else:
        play_holder(folder, ports[1])


if __name__ == "__main__":
    main()
