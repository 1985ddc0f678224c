# The example bot, for docker-compose.yml; built from the repository's root.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --locked --release --example bot

FROM debian:bookworm-slim
COPY --from=build /src/target/release/examples/bot /usr/local/bin/bot
USER 65534:65534
ENTRYPOINT ["bot"]
