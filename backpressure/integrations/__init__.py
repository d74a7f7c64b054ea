"""Pace matching inside other people's programs: clients and task frameworks, each in a module that imports it.

`Limiter` (limiter.py) decides when the next message to a queue may go; a `QueueWatcher` (watcher.py) keeps it informed,
from a thread of its own. `Paced` and `SyncPaced` (paced.py) publish with a client library, which one module named
``…_client.py`` knows.
"""
