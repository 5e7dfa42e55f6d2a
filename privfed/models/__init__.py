"""Base models, their trainable parts, and parameters as one flat vector."""
