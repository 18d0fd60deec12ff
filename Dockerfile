# One image for workers, dashboard and migrations. The application in it is examples/quickstart: put yours in its place.
FROM python:3.13-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY pq_core pq_core
COPY pq_hooks pq_hooks
COPY pq_adapters pq_adapters
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir ".[binary,dashboard,webhook]"

FROM python:3.13-slim
RUN useradd --system --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin pq
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PQ_WORKER_HEALTH_FILE=/tmp/pq-health
WORKDIR /app
COPY examples/quickstart .
USER 10001:10001
# `pq worker` is fit for PID 1: it reaps, and passes SIGTERM on as a drain.
STOPSIGNAL SIGTERM
ENTRYPOINT ["pq"]
CMD ["worker", "shop:pq"]
