"""AMQP 0-9-1 as octets, without I/O: used by the embedded broker and by the RabbitMQ transport.

- ``frames``: a byte stream to frames, and back, or to whole frames; the error for octets that are not AMQP
- ``methods``: the arguments of a method, in the payload of its frame, quicker for those that come with every message
- ``properties``: the property list of a content header, kept in its octets
- ``field_tables``: tables of named values, as declarations and headers have them
- ``deaths``: the history of a dead letter
- ``outgoing``, ``incoming``: what a client writes and reads with every message

Structure is checked: wrong lengths and unknown types raise `DecodeError`. Values are read leniently, because brokers
accept text that is not UTF-8, times beyond any calendar, and numbers that are not finite. A value without a meaning is
None or is left out, and messages and declarations are always passed on as the octets that arrived.

Must not know: sockets, sessions, queues, client libraries.
"""
