"""``pace proxy``: stands between any AMQP 0-9-1 client and its broker, and paces what is published.

- ``splitter``: a byte stream to whole frames, which are forwarded as they came
- ``topology``: from exchange and routing key to the queues that a message reaches
- ``lanes``: what waits in one channel; ``paced_queue``: who may send to one queue, and when
- ``publishing``: what a client publishes on its channels, and the broker's answers to it
- ``watching``: deliveries and settlements that pass, as the reports of their consumers
- ``session``: one client and its connection to the broker, bytes in and bytes out
- ``server``: the sockets; ``engine``: the process, with one control loop for each paced queue

Only ``server`` and ``engine`` know sockets and tasks. The proxy never acknowledges, drops or reorders a message. Frames
that it does not understand are forwarded: the broker answers them.
"""
