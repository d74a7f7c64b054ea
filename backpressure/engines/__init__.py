"""The processes' engines: core decisions wired to a transport, which is handed in.

An engine knows the protocols of `backpressure.transports.base` and nothing of RabbitMQ, Kafka or HTTP.
"""
