ARG DEBIAN=12
ARG DEBIAN
FROM debian:$DEBIAN AS base
ARG VERSION=1.4
FROM base
ARG VERSION
WORKDIR /opt/tool-$VERSION
RUN ./configure --prefix=/opt/tool-$VERSION && make
