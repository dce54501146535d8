# syntax=docker/dockerfile:1.7
FROM alpine:3.19
RUN <<EOF
set -eu
apk add --no-cache curl
echo "$HOME"
EOF
RUN <<-'SCRIPT'
	set -e
		echo indented
	SCRIPT
RUN cat <<EOF > /etc/motd && chmod 644 /etc/motd
Welcome to $(hostname)
# no comment
EOF
