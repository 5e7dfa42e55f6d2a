"""The error tree. Every message says what must hold, what came, and what to do.

PrivfedError
├── ConfigError         a setting is out of range or contradicts another (also ValueError)
├── DataError           text that cannot be used: unknown column, empty client (also ValueError)
├── ModelError          a model or adapter that cannot be trained as asked
│   └── GateError       per-example gradients of a parameter are not exact: refused before training
├── MessageError        bytes from outside that are not what they must be
├── EncryptionError     encryption or decryption that must not go on
│   └── SpoiledSumError the sum of a round is not that of its contributions; it names nobody
├── IdentityError       a key, a party or a roster that cannot be trusted or used
├── TooFewClientsError  fewer than `min_clients` clients delivered a round
│   └── AwayError       enough delivered, but some stayed away before their sum could be opened
├── RunFolderError      an output folder of another run, or without what a resume needs
├── ReportError         a report with a missing or contradicting field
├── FileError           a file or folder that the system does not let be written (also OSError)
└── UnforeseenError     what no other error says; its cause is in a private file

`accountants.stopping.Stopped` is none of them: somebody wants the program to end (a
KeyboardInterrupt).
"""

from collections.abc import Sequence


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


class SpoiledSumError(EncryptionError):
    """The sum of a round is not that of its contributions; nobody can say whose fault it is."""


class IdentityError(PrivfedError):
    """A key, a party or a roster that cannot be trusted or used."""


class TooFewClientsError(PrivfedError):
    """Fewer than `min_clients` clients delivered a round; their sum is not decrypted.

    Args:
        message: what must hold, what came, what to do.
        missing: the clients that did not deliver, sorted.
    """

    def __init__(self, message: str, missing: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.missing = tuple(missing)


class AwayError(TooFewClientsError):
    """Clients whose updates were to be summed stayed away before the sum could be opened."""


class RunFolderError(PrivfedError):
    """An output folder that belongs to another run, or lacks what a resume needs."""


class ReportError(PrivfedError):
    """A report with a missing or contradicting field; it is refused, not rendered with a gap."""


class FileError(PrivfedError, OSError):
    """The system does not let a file or folder be written: no room, no permission, no folder."""


class UnforeseenError(PrivfedError):
    """What nobody foresaw. The cause may quote private text, so it is told in a private file."""


def is_failure(error: BaseException) -> bool:
    """Whether something failed: an exception, or a panic of a library in Rust (pyo3).

    Python counts such a panic among the exceptions that nothing should catch, like the wish to
    stop, yet tokenizers' panics quote the text that they are of.
    """
    return isinstance(error, Exception) or type(error).__module__ == "pyo3_runtime"
