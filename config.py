"""Every knob of the experiment: value, unit, reason.

A flag (--rate 500) is stronger than an environment variable (PACE_PRODUCER__RATE=500), which is stronger than
this file. Leave out what you do not change: the defaults fill the gaps. A wrong value is named when you start.
"""


class producer:
    """The fast side."""

    rate = 1000.0                          # msg/s · offered load: ten times what one consumer can do, the mismatch we study; 0 or max: as fast as can be
    strategy = "pace"                      # law, and the queue's bound that goes with it; `pace laws` lists them; package.module:Class is your own
    limit = 0                              # messages · stop after this many; 0: endless
    batch_size = 50                        # messages · at most this many are written in one go
    burst_ms = 100.0                       # ms · depth of the token bucket: what may be caught up after a stall
    confirm_window = 2000                  # messages · sent but unconfirmed at most; publishing pauses there
    on_nack = "auto"                       # a refused message is sent again, or given up; auto: retry where the law adapts
    nack_pause_ms = 100.0                  # ms · pause before a refused message is sent again
    arrivals = "fixed"                     # offered load comes evenly, or at random with the same mean
    payload_bytes = 0                      # bytes · pad the body to this size; 0: the text alone
    text = "Hello World"                   # body of each message
    processing_time_s = None               # s · ask the consumer for this much work a message; None: its own
    producer_id = ""                       # who sent it, shown by the consumer; empty: your user name
    weight = 1.0                           # share of the common rate against other producers
    purge = False                          # empty the queues before the first message
    progress_every = 10_000                # messages · print a line each time this many are confirmed; 0: never
    count = 1                              # processes · how many producers `pace run` starts
    start_paused = False                   # connect, then wait for POST /admin/resume
    drain_timeout_s = 10.0                 # s · on stop, wait this long for outstanding confirms


class consumer:
    """The slow side."""

    rate = 100.0                           # msg/s · what one consumer can do: 10 ms of work a message; 0 or max: as fast as can be
    distribution = "fixed"                 # how service times vary around 1/rate (uniform: processing_min_ms … processing_max_ms)
    processing_min_ms = 5.0                # ms · shortest work when the distribution is uniform
    processing_max_ms = 15.0               # ms · longest work when the distribution is uniform
    prefetch = "auto"                      # messages · unsettled at most; auto: rate × round trip + a few, measured
    name = ""                              # shown in the monitor; empty: consumer-<pid>
    failure_rate = 0.0                     # share of attempts that fail on purpose, to see retry and dead letters
    poison_rate = 0.0                      # share of messages that fail at every attempt, chosen by their ids
    expect = 0                             # messages · stop after this many; 0: endless
    progress_every = 10_000                # messages · print a line each time this many are done; 0: never
    count = 1                              # processes · how many consumers `pace run` starts
    verbose = False                        # print a line for every message: from whom, how old
    drain_timeout_s = 10.0                 # s · on stop, finish at most this long what has been delivered


class queue:
    """The queue between the two, and what surrounds it."""

    exchange = "direct.exchange"           # direct, durable; producers publish here, never to the queue itself
    routing_key = "work"                   # binds the work queue (and the audit queue) to the exchange
    work = "work.queue"                    # the queue that producer and consumer share
    dead_letter = "work.queue.dlq"         # where messages go that failed too often or were dropped
    audit = "audit.queue"                  # receives a copy of every message when auditing is on
    auditing = False                       # nobody empties the audit queue, so it is off until asked for
    audit_max_length = 1_000_000           # messages · the audit queue drops its oldest beyond this
    type = "classic"                       # quorum: replicated; lazy: on disk (RabbitMQ before 3.12; later classic queues always are)
    durable = True                         # the queue and its persistent messages survive a broker restart
    max_length = 10_000                    # messages · bound of the work queue; None: unbounded
    max_length_bytes = None                # bytes · bound of the work queue by size; None: unbounded
    overflow = "reject-publish"            # a full queue refuses new messages (nack), or drops its oldest
    message_ttl_ms = None                  # ms · messages older than this are dead-lettered; None: never
    partitions = 1                         # Kafka only: at most this many consumers share the topic, order holds within each


class control:
    """Back-pressure: how the producer finds the consumer's pace."""

    target_wait_ms = 20.0                  # ms · queue wait the law aims for; it never aims below the queue's natural spread
    floor_per_s = None                     # msg/s · never slower than this; None: the law's own (threshold: 100)
    ceiling_per_s = None                   # msg/s · never faster than this; None: the offered load
    tick_ms = 100.0                        # ms · how often the law decides
    parameters = {}                        # per law, its own parameters, e.g. {'rate_limited': {'rate_per_s': 50}}; see docs/laws.md


class retry:
    """What happens to a message whose processing fails."""

    max_attempts = 4                       # attempts · then the message is dead-lettered with the reason
    backoff_min_ms = 100.0                 # ms · pause before the second attempt
    backoff_max_ms = 5000.0                # ms · longest pause between attempts
    multiplier = 2.0                       # each pause is this many times the one before
    jitter = 0.2                           # pauses vary by this share, so that failures do not retry in step


class monitor:
    """What is watched, and when it is worth a warning."""

    host = "127.0.0.1"                     # address of /metrics and the page; any other than loopback needs api.token
    port = 8000                            # localhost:8000/metrics is Prometheus text
    watch_s = 3.0                          # s · redraw the cards this often; 0: once
    probe_interval_ms = 250.0              # ms · how often the queue depth is read; nothing is decided by it
    depth_threshold = 5000                 # messages · a deeper queue is red
    memory_threshold_percent = 80.0        # % · more of the broker's memory limit is red
    latency_threshold_ms = 1000.0          # ms · a longer queue wait (p99) is red


class broker:
    """Where the broker is and how patiently to look for it."""

    url = ""                               # a full URL (amqp[s]:// kafka[+ssl]://) wins over host, port and user; empty: use those
    host = "localhost"                     # machine the broker runs on
    port = 5672                            # AMQP port
    username = "guest"                     # RabbitMQ lets guest in from localhost only
    password = "guest"                     # never shown in logs, reports or /status
    virtual_host = "/"                     # name space of queues and exchanges
    management_url = ""                    # management API, e.g. http://localhost:15672; empty: found from the host
    heartbeat_s = 30                       # s · a dead peer is noticed after about two of these
    connect_timeout_s = 5.0                # s · one attempt to connect may take this long
    blocked_timeout_s = 300.0              # s · give up on a connection the broker keeps blocked
    reconnect_min_s = 0.2                  # s · first pause before connecting again; doubles each time
    reconnect_max_s = 3.0                  # s · longest pause before connecting again
    discover = True                        # told of no broker, and none on the port: use the one that `pace broker` started here
    wait = True                            # wait for a broker that is not there yet; off: fail at once
    ca_file = ""                           # certificate authority for amqps://; empty: the system's
    cert_file = ""                         # client certificate for amqps://
    key_file = ""                          # its private key


class api:
    """The control APIs."""

    enabled = True                         # serve the control API of producer and consumer
    host = "127.0.0.1"                     # any other address than loopback needs a token
    producer_port = 5000                   # 0: any free port, shown on start
    consumer_port = 8001                   # 0: any free port, shown on start
    lab_port = 8080                        # lab service
    token = ""                             # clients send Authorization: Bearer <token>, browsers give it as password; empty: none


class lab:
    """The lab service (`pace lab`)."""

    kafka_url = ""                         # broker of the /kafka endpoints, e.g. kafka://localhost:9092; empty: they answer 503
    prefix = "lab"                         # first word of the lab's exchanges and queues
    kept_messages = 1000                   # messages · each list keeps the newest, and counts what it dropped
    seconds_per_complexity = 1.0           # s · a task of complexity 3 takes three times this
    max_workers = 16                       # processes · task workers at most
    max_subscribers = 20                   # subscribers · each has a queue and a connection of its own


class feedback:
    """The counters every process reports to all others."""

    exchange = "pace.feedback"             # fanout on which the reports travel
    interval_ms = 100.0                    # ms · how often each process reports: freshness matters most
    timeout_s = 2.0                        # s · a process silent for this long is taken for gone


class log:
    """What is written to the terminal."""

    level = "INFO"                         # how much is worth a line
    format = "text"                        # json: one object a line, for machines


class tracing:
    """Traces of single messages, from publishing to processed, over OTLP/HTTP; needs the extra `otel`."""

    enabled = False                        # off costs nothing
    endpoint = "http://localhost:4318"     # a collector that speaks OTLP/HTTP, e.g. Jaeger; /v1/traces is added
    sample_ratio = 1.0                     # share of messages that are traced; the producer decides, consumers follow
