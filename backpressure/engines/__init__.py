"""The engines of the processes: decisions of the core, wired to a transport that is passed in.

An engine knows the protocols of `backpressure.transports.base` and nothing of RabbitMQ, Kafka or HTTP.
"""
