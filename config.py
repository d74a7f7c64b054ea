"""Every knob of the experiment: value, unit, reason.

A flag (--rate 500) is stronger than an environment variable (PACE_PRODUCER__RATE=500), which is stronger than
this file. Leave out what you do not change: the defaults fill the gaps. A wrong value is named when you start.
"""


class producer:
    """The producer, the fast side."""

    rate = 1000.0                          # msg/s · offered load: ten times what one consumer can do; 0 or max: as fast as possible
    strategy = "pace"                      # rate-control law and its queue bound: one of `pace laws`, or package.module:Class of your own
    limit = 0                              # messages · stop after this many; 0: endless
    batch_size = 50                        # messages · maximum number of messages written at once
    burst_ms = 100.0                       # ms · depth of the token bucket: how much can be caught up after a stall
    confirm_window = 2000                  # messages · maximum number of unconfirmed messages; publishing pauses there
    on_nack = "auto"                       # send a refused message again, or give it up; auto: retry if the law adapts
    nack_pause_ms = 100.0                  # ms · pause before a refused message is sent again
    arrivals = "fixed"                     # fixed: evenly spaced; poisson: at random with the same mean
    payload_bytes = 0                      # bytes · pad the body to this size; 0: only the text
    text = "Hello World"                   # body of each message
    template = ""                          # body with fields in place of text, e.g. {"id": "{uuid}", "n": {counter}}; docs/scenarios.md has them all
    handler = ""                           # package.module:function of your own that makes body and headers of each message; sync, async or a generator
    samples = ""                           # file whose lines are the bodies, in place of text
    samples_order = "file"                 # file: one line after the other, from the beginning again at the end; random: any line
    recorded_at = ""                       # json:KEY.KEY of samples: send each at its recorded time, and stop at the last
    recorded_speed = 1.0                   # how many times faster than recorded
    headers = {}                           # headers of each message; texts may have fields
    content_type = ""                      # content type of each message
    priority = ""                          # priority of each message, 0 to 255; may have fields, e.g. {choice:0*9|5}
    ttl_ms = None                          # ms · each message expires after this long in the queue; None: never
    reply_to = ""                          # queue for replies, sent with the message id as correlation id
    profile = "steady"                     # how the rate varies below producer.rate: steady, bursts:on_s=1,off_s=4, day:length_s=60 or table:file=rates.csv,speed=60
    processing_time_s = None               # s · work per message that the consumer is asked for; None: its own
    producer_id = ""                       # sender, as the consumer shows it; empty: your user name
    weight = 1.0                           # share of the total rate, relative to other producers
    purge = False                          # empty the queues before the first message
    progress_every = 10_000                # messages · print a line each time this many are confirmed; 0: never
    count = 1                              # processes · number of producers that `pace run` starts
    start_paused = False                   # connect, then wait for POST /admin/resume
    drain_timeout_s = 10.0                 # s · when stopped, wait at most this long for outstanding confirms


class consumer:
    """The consumer, the slow side."""

    rate = 100.0                           # msg/s · capacity of one consumer: 10 ms of work per message; 0 or max: as fast as possible
    distribution = "fixed"                 # how service times vary around 1/rate (uniform: from processing_min_ms to processing_max_ms)
    processing_min_ms = 5.0                # ms · shortest service time of the uniform distribution
    processing_max_ms = 15.0               # ms · longest service time of the uniform distribution
    prefetch = "auto"                      # messages · maximum number of unacknowledged messages; auto: measured rate × round trip + a few
    name = ""                              # shown in the monitor; empty: consumer-<host>-<pid>
    handler = ""                           # package.module:function of your own that does the work, sync or async; empty: work is simulated at rate
    failure_rate = 0.0                     # share of attempts that fail on purpose, to show retries and dead letters
    poison_rate = 0.0                      # share of messages that fail at every attempt, selected by id
    expect = 0                             # messages · stop after this many; 0: endless
    progress_every = 10_000                # messages · print a line each time this many are done; 0: never
    count = 1                              # processes · number of consumers that `pace run` starts
    verbose = False                        # print a line for every message, with its sender and age
    drain_timeout_s = 10.0                 # s · when stopped, work at most this long on messages already delivered


class queue:
    """The work queue, its exchange, and the dead-letter and audit queues."""

    exchange = "direct.exchange"           # durable direct exchange that producers publish to; empty (predeclared only): the default exchange
    routing_key = "work"                   # binds the work queue and the audit queue to the exchange
    routing_keys = {}                      # routing keys by their shares of the messages, in place of routing_key; all lead to the work queue
    predeclared = False                    # use a queue that somebody else has declared as it is: declare, bind and limit nothing
    work = "work.queue"                    # queue that producers and consumers share
    dead_letter = "work.queue.dlq"         # queue for messages that failed too often or were dropped
    give_up = "auto"                       # a message that failed too often on a predeclared queue: reject it to that queue's dead-letter exchange, or publish it to dead_letter; auto: reject if the queue is known to have such an exchange
    audit = "audit.queue"                  # queue that receives a copy of every message if auditing is on
    auditing = False                       # copy every message to the audit queue, which nothing consumes
    audit_max_length = 1_000_000           # messages · the audit queue drops its oldest messages beyond this
    type = "classic"                       # quorum: replicated; lazy: on disk (from RabbitMQ 3.12 on classic queues are, too)
    durable = True                         # the queue and its persistent messages survive a restart of the broker
    max_length = 10_000                    # messages · maximum length of the work queue; None: unbounded
    max_length_bytes = None                # bytes · maximum size of the work queue; None: unbounded
    overflow = "reject-publish"            # a full queue refuses new messages (nack) or drops its oldest
    message_ttl_ms = None                  # ms · dead-letter messages older than this; None: never
    max_priority = None                    # classic queues: messages up to this priority overtake others; None: first in, first out
    partitions = 1                         # Kafka only: at most this many consumers share the topic; order holds within a partition
    consumer_group = ""                    # Kafka only: group of somebody else's consumers, whose commits producer and monitor follow; empty: ours


class control:
    """Rate control: how the producer finds the consumer's pace."""

    target_wait_ms = 20.0                  # ms · queue wait the law aims for, but never below the natural variation of the queue
    floor_per_s = None                     # msg/s · lower limit of the rate; None: that of the law (threshold: 100)
    ceiling_per_s = None                   # msg/s · upper limit of the rate; None: the offered load
    tick_ms = 100.0                        # ms · interval between two decisions of the law
    parameters = {}                        # parameters of the laws, e.g. {'rate_limited': {'rate_per_s': 50}}; see docs/laws.md


class retry:
    """Retries of messages whose processing fails."""

    max_attempts = 4                       # attempts · after this many the message is dead-lettered with the reason
    backoff_min_ms = 100.0                 # ms · pause before the second attempt
    backoff_max_ms = 5000.0                # ms · longest pause between attempts
    multiplier = 2.0                       # factor from one pause to the next
    jitter = 0.2                           # random share of each pause, so that failures are not retried in step


class monitor:
    """What the monitor shows, and its warning thresholds."""

    host = "127.0.0.1"                     # address of /metrics and the live page; any but loopback needs api.token
    port = 8000                            # port of /metrics and the live page; 0: any free one
    watch_s = 3.0                          # s · interval between two redraws of the cards; 0: one frame, then end
    queues = ""                            # watch these queues as they are: names and patterns (* and ?), with commas between; empty: the work queue and those of the processes that report
    probe_interval_ms = 250.0              # ms · how often the queue depth is read, for display only
    depth_threshold = 5000                 # messages · a deeper queue is shown in red
    memory_threshold_percent = 80.0        # % · a larger share of the broker's memory limit is shown in red
    latency_threshold_ms = 1000.0          # ms · a longer queue wait (p99) is shown in red


class broker:
    """Where the broker is and how patiently to look for it."""

    url = ""                               # full URL (amqp[s]:// or kafka[+ssl]://), instead of host, port and user; empty: those are used; the servers of a cluster have commas between them: amqp://one,two:5673/
    host = "localhost"                     # host name or address of the broker; of several with commas, any that answers
    port = 5672                            # AMQP port of every host that names none
    username = "guest"                     # user name; RabbitMQ accepts guest from localhost only
    password = "guest"                     # password of the user; never shown in logs, reports or /status
    virtual_host = "/"                     # namespace of queues and exchanges
    management_url = ""                    # URL of the management API, e.g. http://localhost:15672 or http://one:15672,two:15672; empty: derived
    prometheus_url = ""                    # URL of the plugin rabbitmq_prometheus, which tells at once what consumers of quorum queues hold, e.g. http://localhost:15692; empty: derived from the host
    heartbeat_s = 30                       # s · a dead connection is detected after about two heartbeats
    connect_timeout_s = 5.0                # s · time limit for one connection attempt
    blocked_timeout_s = 300.0              # s · close a connection that the broker has blocked for this long
    reconnect_min_s = 0.2                  # s · first pause before reconnecting; doubles with each attempt
    reconnect_max_s = 3.0                  # s · longest pause before reconnecting
    discover = True                        # if no broker is configured and none answers on the port, use one that `pace broker` started here
    wait = True                            # wait for a broker that is not available yet; off: fail at once
    ca_file = ""                           # certificate authority for amqps://; empty: those of the system
    cert_file = ""                         # client certificate for amqps://
    key_file = ""                          # private key of the client certificate


class api:
    """The HTTP control APIs."""

    enabled = True                         # serve the control API of producer and consumer
    host = "127.0.0.1"                     # address of the control APIs; any but loopback needs a token
    producer_port = 5000                   # 0: any free port, printed at the start
    consumer_port = 8001                   # 0: any free port, printed at the start
    lab_port = 8080                        # port of the lab service; 0: any free one
    token = ""                             # sent as Authorization: Bearer <token>, by browsers as the password; empty: none needed


class lab:
    """The lab service (`pace lab`)."""

    kafka_url = ""                         # broker of the /kafka endpoints, e.g. kafka://localhost:9092; empty: they answer 503
    prefix = "lab"                         # prefix of the lab's exchanges and queues
    kept_messages = 1000                   # messages · each list keeps this many of the newest messages, and counts the others
    seconds_per_complexity = 1.0           # s · duration of a task of complexity 1; one of complexity 3 takes three times as long
    max_workers = 16                       # processes · maximum number of task workers
    max_subscribers = 20                   # subscribers · maximum number of subscribers; each has its own queue and connection


class feedback:
    """The reports in which every process publishes its counters."""

    exchange = "pace.feedback"             # fanout exchange of the reports
    interval_ms = 100.0                    # ms · interval between two reports of a process; old reports slow the control down
    timeout_s = 2.0                        # s · a process without a report for this long counts as gone


class log:
    """Logging to standard error."""

    level = "INFO"                         # least severe level that is logged
    format = "text"                        # text for people, or one JSON object per line for machines


class tracing:
    """Traces of single messages, from publishing to the end of processing, over OTLP/HTTP; needs the extra `otel`."""

    enabled = False                        # record traces; no cost while off
    endpoint = "http://localhost:4318"     # OTLP/HTTP collector, e.g. Jaeger; /v1/traces is appended
    sample_ratio = 1.0                     # share of messages that are traced; the producer decides for each


class agent:
    """Processes of a run on other machines (`pace agent`): what an agent and the runs that it takes part in share."""

    token = ""                             # secret of at least 16 characters that an agent and its runs share; it is never sent
    group = "pace"                         # a run looks for agents of its group only
    name = ""                              # how a run calls the agent; empty: the name of its host
    patience_s = 10.0                      # s · an agent or a run that gives no sign of life for this long is lost to the other
