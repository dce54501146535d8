"""Ending what killed builders of tests have left running."""

from pathlib import Path

from obuilder_sandbox_runc import RuncSandbox

__all__ = ["end_containers"]


async def end_containers(state_dir: Path) -> None:
    """End the containers of a runc sandbox whose builders are dead."""
    async with RuncSandbox.open(state_dir, RuncSandbox.Config()) as sandbox:
        for leftover in await sandbox.leftovers():
            await sandbox.discard(leftover)
