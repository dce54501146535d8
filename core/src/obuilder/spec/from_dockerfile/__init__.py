"""A Dockerfile to a spec: what has an equal is converted, all the rest is refused at once."""

from obuilder.spec.from_dockerfile.convert import Converted, from_dockerfile
from obuilder.spec.from_dockerfile.refusals import DockerfileRefused
from obuilder.spec.from_dockerfile.state import Kind

__all__ = ["Converted", "DockerfileRefused", "Kind", "from_dockerfile"]
