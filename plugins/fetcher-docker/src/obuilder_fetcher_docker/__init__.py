"""Base images from a Docker engine, for obuilder."""

from obuilder_fetcher_docker.fetcher import DockerFetcher

__all__ = ["DockerFetcher"]
