"""What `python -m accountants` reads and prints."""
