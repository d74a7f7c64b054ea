"""The HTTP side: FastAPI apps over the engines, served in the process's own event loop."""

from backpressure.extras import require

require("bench", "an HTTP API")
