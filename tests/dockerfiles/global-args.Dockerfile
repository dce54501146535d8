ARG GO=1.22 VARIANT=bookworm TAG=${GO}-${VARIANT}
ARG GO
FROM golang:${TAG} AS build
ARG GO
ARG FLAGS=-trimpath LDFLAGS="$FLAGS -s -w"
ENV CGO_ENABLED=0 GOFLAGS=$FLAGS
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod/ go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    go build -ldflags "$LDFLAGS" -o /out/server ./cmd/server

FROM debian:bookworm-slim
COPY --from=build /out/server /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/server"]
