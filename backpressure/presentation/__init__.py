"""Shared presentation: numbers, colours and consoles, and files of installed packages."""

from backpressure.extras import require

require("bench", "output in colours")
