"""Privacy accounting for federated learning: what was released, and what it cost."""
