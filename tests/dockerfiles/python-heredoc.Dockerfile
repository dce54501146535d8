FROM python:3.12
RUN <<EOF
#!/usr/bin/env python3
print("hello")
EOF
COPY <<EOF /etc/app.conf
[app]
EOF
