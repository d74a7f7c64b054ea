"""The pure core: what pace matching *decides*.

Nothing here opens a socket, starts a thread, reads a clock, draws a random number or imports a client library: bytes,
counters, times and seeds are passed in, so that every rule can be tested and simulated in virtual time.
"""
