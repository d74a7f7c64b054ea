"""The lab service: send and consume, task workers, publish and subscribe, over HTTP and on a page of its own.

Every part connects when it is first used and not before: the lab starts without a broker, says what is missing in
its answers, and works as soon as one runs. Only `app` and `models` know HTTP.
"""

from backpressure.extras import require

require("bench", "the lab service")
