"""From a decrypted sum to the next global state: pure functions."""
