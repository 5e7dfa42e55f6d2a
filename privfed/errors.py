"""The error tree. Every message says what must hold, what came, and what to do.

PrivfedError
├── ConfigError         a setting is out of range or contradicts another (also ValueError)
├── DataError           text that cannot be used: unknown column, empty client (also ValueError)
├── ModelError          a model or adapter that cannot be trained as asked
│   └── GateError       per-example gradients of a parameter are not exact: refused before training
├── MessageError        bytes from outside that are not what they must be
├── EncryptionError     encryption or decryption that must not go on
├── IdentityError       a key, a party or a roster that cannot be trusted or used
├── TooFewClientsError  fewer than `min_clients` clients delivered a round
├── RunFolderError      an output folder of another run, or without what a resume needs
└── ReportError         a report with a missing or contradicting field
"""


class PrivfedError(Exception):
    """Base class of every error that privfed raises on purpose."""


class ConfigError(PrivfedError, ValueError):
    """A setting is out of range or contradicts another."""


class DataError(PrivfedError, ValueError):
    """Text that cannot be used: an unknown column, an empty client, an unreadable file."""


class ModelError(PrivfedError):
    """A model or adapter that cannot be trained as asked."""


class GateError(ModelError):
    """Per-example gradients of a parameter are not exact; training it would not be private."""


class MessageError(PrivfedError):
    """Bytes that crossed a boundary and are not what they must be."""


class EncryptionError(PrivfedError):
    """Encryption or decryption that must not go on."""


class IdentityError(PrivfedError):
    """A key, a party or a roster that cannot be trusted or used."""


class TooFewClientsError(PrivfedError):
    """Fewer than `min_clients` clients delivered a round; their sum is not decrypted."""


class RunFolderError(PrivfedError):
    """An output folder that belongs to another run, or lacks what a resume needs."""


class ReportError(PrivfedError):
    """A report with a missing or contradicting field; it is refused, not rendered with a gap."""
