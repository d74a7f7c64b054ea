"""The embedded broker: a real AMQP 0-9-1 server for experiments, tests and teaching.

Layers, bottom up. Only the last two own sockets; everything above them is bytes in, bytes out, with time passed in.

- ``replies``: error codes and texts; the octets of AMQP are `backpressure.amqp`'s
- ``timers``, ``counters``, ``alarms``, ``qos``: small mechanisms without knowledge of AMQP
- ``message``, ``backlog``, ``rotation``, ``queue``, ``exchange``, ``dead_letter``, ``policy``, ``declarations``: what a
  broker is made of
- ``vhost``: all queues, exchanges, bindings and policies of a broker, and the routing between them; ``faults``: what
  goes wrong on demand; ``store``: what survives a restart
- ``handshake``, ``session``, ``channel``, ``publishing``, ``consuming``: one client's conversation with all that
- ``reports``: the state as the management API's documents
- ``server``: the TCP listener and the event loop; ``management``: the HTTP API

The package imports ``backpressure.amqp``, ``backpressure.core`` and ``backpressure.errors`` only: never a transport,
never an AMQP client.
"""
