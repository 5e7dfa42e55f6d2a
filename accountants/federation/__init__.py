"""Epsilon for every client of a federation: `FederatedAccountant`."""
