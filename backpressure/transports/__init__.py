"""Brokers, each behind the protocols in `base`.

Only `factory` imports the concrete transports; the engines know nothing but `base`.
"""
