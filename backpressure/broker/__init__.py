"""The embedded broker: a real AMQP 0-9-1 server for experiments, tests and teaching.

Layers, bottom up. Only the last two own sockets; everything above them is bytes in, bytes out, with time passed in.

- ``wire``, ``properties``, ``replies``: the octets of AMQP: frames, content properties, error codes and texts
- ``timers``, ``counters``, ``alarms``, ``qos``: small mechanisms without knowledge of AMQP
- ``message``, ``queue``, ``exchange``, ``dead_letter``, ``policy``, ``declarations``: what a broker is made of
- ``vhost``: all queues, exchanges, bindings and policies of a broker, and the routing between them
- ``session``, ``channel``: one client's conversation with the virtual host
- ``server``: the TCP listener and the event loop; ``management``: the HTTP API

The package imports ``backpressure.core`` and ``backpressure.errors`` only: never a transport, never an AMQP client.
"""
