FROM debian
RUN --mount=type=cache,target=/a,sharing=exclusive true
RUN --mount=type=cache,target=/a,mode=rwxr-xr-x true
RUN --mount=type=secret,id=a,required=yes true
RUN --mount=type=cache,target=/a,uid=app true
RUN --mount=type=cache,target=/a,gid=-1 true
RUN --mount=type=cache,target true
RUN --mount=type=cache,target=/ true
RUN --mount=required,type=secret,id=a true
RUN --mount=type=secret,id=a,src=b true
