"""Which messages a binding takes: by the type of its exchange, its pattern and the message's routing key."""

from __future__ import annotations

_LONGEST_PATTERN_WORDS = 128


def takes(kind: str, pattern: str, key: str) -> bool:
    """Return whether a binding of an exchange of this ``kind`` takes messages with ``key``, or may.

    What headers, hashing or delays decide is not known, so it may take any. ``kind`` "": the exchange is not known.
    """
    if kind == "direct":
        return pattern == key
    if kind == "topic":
        return topic_matches(pattern, key)
    if kind:  # fanout; headers, hashes, delays: it may go to any queue
        return True
    return not pattern or topic_matches(pattern, key)


def topic_matches(pattern: str, key: str) -> bool:
    """Return whether the words of ``key`` match ``pattern``, where * is one word and # any number of words."""
    if pattern in {key, "#"}:
        return True
    if "*" not in pattern and "#" not in pattern:
        return False
    words = key.split(".")[:_LONGEST_PATTERN_WORDS]
    reached = {0}  # how many of the words may be used up after the parts of the pattern so far
    for part in pattern.split(".")[:_LONGEST_PATTERN_WORDS]:
        if part == "#":
            reached = set(range(min(reached), len(words) + 1))
        else:
            reached = {at + 1 for at in reached if at < len(words) and part in {"*", words[at]}}
        if not reached:
            return False
    return len(words) in reached
