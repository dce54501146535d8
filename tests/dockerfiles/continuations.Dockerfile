FROM alpine
RUN apk add \
# build things
      gcc \   
	musl-dev
ENV PATHS="/a:\
/b" \
    X=1
COPY a.c \
     b.c \
     /src/
