"""How the clients of a run come to share a secret that the aggregator does not learn.

One named client makes it and wraps it to every other's X25519 key. The aggregator relays the signed
message and can read nothing in it; since all keys are pinned by the roster, it can neither put its
own key in a client's place nor hand out a secret of its own.
"""

from typing import Any

from privfed.canonical import canonical_json
from privfed.custody.keys import SharedSecret
from privfed.custody.native import require_same_software, software
from privfed.custody.wrapping import unwrap, wrap
from privfed.encryption import frames
from privfed.errors import MessageError
from privfed.identity.keys import Identity, Party, Role
from privfed.identity.roster import Roster
from privfed.protocol.contributions import taking_part
from privfed.protocol.envelopes import Blob
from privfed.protocol.kinds import KEY_ID, SHARED_KEY, SOFTWARE
from privfed.protocol.signing import exact_values, signed_message, verified
from privfed.protocol.terms import Terms


def share_secret(secret: SharedSecret, maker: Identity, roster: Roster, terms: Terms) -> bytes:
    """The message by which the maker hands the secrets to the other clients of the run.

    Args:
        secret: made for the parameters in the terms.
        maker: the client that made it.
        roster: who is enrolled.
        terms: of the run, round 0; whom they leave out gets no key.
    """
    content = secret.to_bytes()
    clients = [party for party in taking_part(roster, terms) if party != maker.party]
    blobs = {
        party.name: wrap(
            content, party, _wrapping_context(terms, secret.key_id, maker.party, party)
        )
        for party in clients
    }
    return signed_message(
        maker,
        terms,
        SHARED_KEY,
        manifest={KEY_ID: secret.key_id, SOFTWARE: software()},
        blobs=blobs,
    )


def receive_secret(
    message: Blob,
    identity: Identity,
    roster: Roster,
    terms: Terms,
    *,
    maker: str,
    context: Any,
    shape: frames.Shape,
) -> SharedSecret:
    """Open the secrets that the named maker wrapped to this client.

    Args:
        message: as the aggregator relayed it.
        identity: this client's.
        roster: who is enrolled.
        terms: of the run, round 0.
        maker: name of the client that makes keys, agreed beforehand.
        context: SEAL's, of the scheme.
        shape: of its ciphertexts.

    Raises:
        MessageError: if it is not the maker's message for this run.
        EncryptionError: if it was wrapped to somebody else, or the maker runs another TenSEAL.
    """
    envelope = verified(message, roster, role=Role.CLIENT, kind=SHARED_KEY, terms=terms)
    sender = envelope.statement.sender
    if sender != maker:
        raise MessageError(f"keys of this run are made by {maker!r}, these come from {sender!r}")
    stated = exact_values(envelope, terms, states={KEY_ID, SOFTWARE}, blobs=list(envelope.blobs))
    require_same_software(stated[SOFTWARE], sender)
    name = identity.party.name
    if name not in envelope.blobs:
        raise MessageError(f"{sender!r} wrapped no key to {name!r}")
    key_id = str(stated[KEY_ID])
    bound = _wrapping_context(terms, key_id, roster.party(maker), identity.party)
    content = unwrap(bytes(envelope.blobs[name]), identity, bound)
    secret = SharedSecret.from_bytes(content, context, shape)
    if secret.key_id != key_id:
        raise MessageError(f"the key that {sender!r} wrapped is not the one that it names")
    return secret


def _wrapping_context(terms: Terms, key_id: str, maker: Party, recipient: Party) -> bytes:
    parts = [terms.run, dict(terms.manifest), key_id, maker.to_json(), recipient.to_json()]
    return b"privfed shared key 1\n" + canonical_json(parts)
