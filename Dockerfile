# syntax=docker/dockerfile:1
# `docker build .` makes an image of the command `segue`; `--target example` adds the example's services and sagas.

FROM python:3.12-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY topics topics
COPY outbox outbox
COPY activities activities
COPY coordinator coordinator
COPY migrations migrations
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim AS runtime
# The number, not the name, is what Kubernetes checks for runAsNonRoot.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin segue
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir "$(echo /wheels/*.whl)[postgres,registry]"
ENV PYTHONUNBUFFERED=1
WORKDIR /app
RUN chown segue /app
USER 10001
ENTRYPOINT ["segue"]
CMD ["--help"]

FROM runtime AS example
COPY examples examples
ENV PYTHONPATH=/app

FROM runtime AS segue
