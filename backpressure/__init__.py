"""Pace matching: hold a queue short, lose nothing, waste no capacity.

The public surface grows with the package; everything not named in ``__all__`` is free to change.
"""

__version__ = "0.1.0"

__all__ = ["__version__"]
