"""The lab service's HTTP side: RabbitMQ and Kafka, tasks, publish and subscribe, and a page to try them on.

Thin on purpose: what is received and sent is described here, what happens is in `backpressure.engines.lab`.
"""
