"""Brokers, each behind the protocols of `base`.

Concrete transports are imported by name only where one is chosen (`factory`); the engines see `base` alone.
"""
