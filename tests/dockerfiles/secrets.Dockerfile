FROM python:3.12-slim
WORKDIR /app
RUN --mount=type=secret,id=company/pip.conf,required pip config debug
RUN --mount=type=secret,src=npmrc,target=/root/.npmrc,mode=0400 \
    --mount=type=secret,dst=/etc/keys/token/ \
    cat /etc/keys/token
RUN --mount=type=secret,id=aws,target=.aws/credentials true
