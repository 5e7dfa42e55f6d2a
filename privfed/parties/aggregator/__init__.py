"""The aggregator: who takes part, the encrypted sum, checkpoints. It holds no key."""
