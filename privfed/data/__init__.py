"""Loading and splitting text, and who holds which example."""
