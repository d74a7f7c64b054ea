"""What people look at: cards and lines on a terminal, the live page, a run while it lasts.

Snapshots in, pictures out: nothing here connects to a broker or decides anything. Only the consumer's window
also sends requests, from its buttons.
"""

from backpressure.extras import require

require("bench", "a display")
