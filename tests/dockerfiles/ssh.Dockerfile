FROM alpine/git
RUN --mount=type=ssh git clone git@example.org:a/b.git
RUN --mount=type=secret,id=token,env=TOKEN ./fetch
