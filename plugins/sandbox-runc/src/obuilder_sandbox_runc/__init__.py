"""The runc sandbox: commands in containers of any OCI runtime."""

from obuilder_sandbox_runc.sandbox import RuncSandbox

__all__ = ["RuncSandbox"]
