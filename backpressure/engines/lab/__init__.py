"""The lab service's engines: send and consume, task workers, publish and subscribe, each small enough to read at once.

Every part connects when it is first used and not before: the lab starts without a broker, says what is missing when
asked, and works as soon as one is there. Nothing here knows HTTP.
"""
