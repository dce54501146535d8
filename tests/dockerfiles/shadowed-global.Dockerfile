ARG V=1
FROM debian AS a
ARG V=2
ENV V=3
FROM a
ARG V
RUN echo $V
