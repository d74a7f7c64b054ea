"""AMQP 0-9-1 as octets, without I/O: used by the embedded broker and by the RabbitMQ transport.

- ``frames``: a byte stream to frames, and back
- ``methods``: the arguments of a method, in the payload of its frame
- ``properties``: the property list of a content header, kept in its octets
- ``field_tables``: tables of named values, as declarations and headers have them
- ``reading``: properties and headers of a received message as Python values, whatever they hold
- ``deaths``: the history of a dead letter
- ``outgoing``, ``incoming``: what a client writes and reads with every message
- ``decode_errors``: what is wrong with octets that are no AMQP

Structure is strict: lengths and types that do not add up raise `DecodeError`. Values are lenient: what a broker
lets through may hold text that is not UTF-8, a time beyond any calendar, or a number that is none. Each value that has
no meaning reads as None, and the octets it came from are kept wherever a message or a declaration is passed on.

May not know: sockets, sessions, queues, client libraries.
"""
