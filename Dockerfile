# All programs in one image: `producer`, `consumer`, `monitor` or `lab` is the command.
FROM python:3.13-slim

WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY backpressure backpressure
RUN pip install --no-cache-dir --disable-pip-version-check -c constraints.txt '.[bench,kafka,otel]' \
    && useradd --system --create-home --uid 10001 pace
COPY compose/healthy.py /usr/local/lib/healthy.py

USER pace
WORKDIR /home/pace
# Each program writes here, once it is connected, where it listens; the health check reads it.
ENV PYTHONUNBUFFERED=1 PACE_PROCESS__ANNOUNCE_FILE=/tmp/pace.json
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["python", "/usr/local/lib/healthy.py"]
ENTRYPOINT ["pace"]
CMD ["--help"]
