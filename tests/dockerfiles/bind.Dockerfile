FROM golang:1.22
WORKDIR /src
RUN --mount=type=bind,source=go.mod,target=go.mod \
    --mount=type=cache,target=/go/pkg/mod go mod download -x
RUN --mount=target=. --mount=type=tmpfs,target=/tmp go build ./...
