"""AMQP 0-9-1 as octets, without I/O: used by the embedded broker and by the RabbitMQ transport.

May not know: sockets, sessions, queues, client libraries.
"""
