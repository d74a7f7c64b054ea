"""The embedded broker: a real AMQP 0-9-1 server for experiments, tests and teaching.

The modules, from bottom to top; none imports one further up. Only `server`, `web` and `descriptors` use sockets. All
others work on bytes, and time is passed in.

- ``replies``: refusals, with RabbitMQ's codes and texts
- ``timers``, ``meters``, ``patterns``: small mechanisms without knowledge of AMQP
- ``entries``, ``queue``, ``exchange``, ``policy``, ``declarations``: messages, queues, exchanges
- ``faults``: failures on demand
- ``vhost``: all queues, exchanges, bindings and policies of a broker, and the routing between them
- ``store``, ``write_ahead_log``: what survives a restart
- ``handshake``, ``peer``, ``direct_reply``, ``transaction``, ``publishing``, ``consuming``, ``channel``, ``session``:
  the conversation with one client
- ``management_documents``, ``management``, ``web``: the HTTP API
- ``server``: the TCP listeners and the event loop

The package imports ``backpressure.amqp``, ``backpressure.core`` and ``backpressure.errors`` only: never a transport,
never an AMQP client.
"""
