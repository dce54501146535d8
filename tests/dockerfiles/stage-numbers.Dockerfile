FROM golang:1.22
WORKDIR /src
COPY . /src/
RUN go build -o /bin/a .
FROM rust:1.77 AS Rust
RUN cargo --version
FROM debian:12
COPY --from=0 /bin/a /bin/a
COPY --from=rust /usr/local/cargo/ /cargo
