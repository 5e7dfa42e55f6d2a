"""privfed fine-tunes language models across organisations that may not share their text.

Each client trains an adapter with DP-SGD, updates are summed under homomorphic encryption, and a
privacy accountant follows epsilon for every client across all rounds. The names below are the
public interface; they are loaded on first use, so that importing the package costs nothing.
"""

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
