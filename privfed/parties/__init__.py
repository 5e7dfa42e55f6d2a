"""The three programs of a federation: client, aggregator, key holder. None imports another."""
