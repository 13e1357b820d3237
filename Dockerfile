# One image for serve, worker and MLflow's server; the command says which.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/perene
COPY requirements.lock ./
# Every file is checked against its hash in the lock.
RUN /opt/perene/bin/pip install --no-cache-dir --require-hashes --no-deps -r requirements.lock
COPY . .
RUN /opt/perene/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --create-home --home-dir /var/lib/perene perene
COPY --from=build /opt/perene /opt/perene
ENV PATH=/opt/perene/bin:$PATH DO_NOT_TRACK=true PYTHONUNBUFFERED=1
USER perene
WORKDIR /var/lib/perene
VOLUME /var/lib/perene
EXPOSE 8000 8002
CMD ["perene", "serve", "--help"]
