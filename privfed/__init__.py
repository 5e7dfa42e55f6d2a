"""privfed fine-tunes language models across organisations that may not share their text."""

__version__ = "0.1.0"
