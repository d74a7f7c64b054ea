"""The fast side: it is offered 1000 messages per second, and sends as many as the slow side can take.

The program is `backpressure/cli/producer.py`. Its parts:

    settings    config.py, environment and flags        backpressure/config.py, settings.py
    transport   RabbitMQ (or the embedded broker)       backpressure/transports/
    engine      schedule -> pace -> window -> publish   backpressure/engines/producer.py, outbox.py
    pace        signals -> law -> decision, 10 Hz       backpressure/engines/pacing.py, core/controllers/
    control     http://localhost:5000/docs              backpressure/api/producer.py

Run it without arguments against a broker on this machine; `--help` lists every flag.
"""

from backpressure.cli.main import run_script

if __name__ == "__main__":
    run_script("producer", __file__)
