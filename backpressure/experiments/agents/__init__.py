"""Runs whose producers and consumers are on other machines: agents there take part, over the run's broker alone.

``conversation`` is how a run and an agent talk: sealed, numbered, acknowledged. ``clocks`` compares their clocks.
``orders`` is what an agent may be told to start. ``pool`` is the run's side, ``agent`` the other one. docs/agents.md
describes it.
"""
