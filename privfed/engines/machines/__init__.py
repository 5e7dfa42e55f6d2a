"""Parties on machines of their own: each a long-lived process beside one that carries its bytes."""
