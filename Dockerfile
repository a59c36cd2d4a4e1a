# One image for every role. The web app is built first, then embedded in the binary.
FROM node:20-bookworm-slim AS web
WORKDIR /src
COPY proto proto
COPY web web
RUN cd web && npm ci && npm run build

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
COPY --from=web /src/web/dist web/dist
# An image runs on other machines than the one that built it: kernels are chosen at run time.
RUN if [ "$(uname -m)" = x86_64 ]; then cpu=x86-64-v2; else cpu=generic; fi \
 && RUSTFLAGS="-C target-cpu=$cpu" cargo build --release --locked -p millm && cp target/release/millm /millm

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --create-home millm && mkdir /data && chown millm /data
COPY --from=build /millm /usr/local/bin/millm
USER millm
WORKDIR /data
VOLUME /data
ENV HOST=0.0.0.0 MODEL_CACHE_DIR=/data/models DATABASE_URL=sqlite:///data/millm.db LOG_FORMAT=json
EXPOSE 8000
ENTRYPOINT ["millm"]
CMD ["serve"]
