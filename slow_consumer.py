"""The slow side: it works on 100 messages per second, and acknowledges each afterwards.

The program is `backpressure/cli/consumer.py`. Its parts:

    settings    config.py, environment and flags        backpressure/config.py, settings.py
    transport   RabbitMQ (or the embedded broker)       backpressure/transports/
    engine      take -> work -> settle, retry           backpressure/engines/consumer.py, work.py, dead_letters.py
    prefetch    as few messages as keep it busy         backpressure/engines/prefetch.py, core/prefetch.py
    control     http://localhost:8001/docs              backpressure/api/consumer.py

Run it without arguments against a broker on this machine; `--help` lists every flag.
"""

from backpressure.cli.main import run_script

if __name__ == "__main__":
    run_script("consumer", __file__)
